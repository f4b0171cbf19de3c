"""Captions for images by a captioner of your choice, with a filter by image-text similarity.

__main__.py    command
options.py     its options
captioner.py   a captioner of transformers
run.py         captions of all rows, shard by shard
"""
