"""Prepare training inputs: `curate` filters image-text pairs, `captions` captions images, `vocabulary` cuts a
tokenizer to English and Chinese, `open_clip` converts a checkpoint of open_clip to a teacher.
`run_state.py` resumes the first two.
"""
