"""The page of `model_cards/web` with a model and images beside it: a folder that any web server can serve."""
