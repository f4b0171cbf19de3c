"""A model folder in other tools: `open_clip.convert`."""
