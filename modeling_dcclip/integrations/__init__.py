"""A model folder in other tools: `open_clip.convert`, `fastembed.register` and `mteb.model_meta`."""
