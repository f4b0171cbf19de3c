"""Prepare training inputs: `curate` filters image-text pairs, `vocabulary` cuts a tokenizer to English and Chinese."""
