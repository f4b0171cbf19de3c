"""Convert a checkpoint of open_clip to a folder that teaches and is evaluated like a model of transformers.

options.py   options of the command
convert.py   config, weights and their comparison with open_clip
tokens.py    the tokenizer, with open_clip's cleaning of texts
"""
