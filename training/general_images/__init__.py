"""General images, whose embeddings a student keeps while it learns the images of its data.

- `photos.py`: the default ones, crops of photographs that pip packages bring, and held-out photographs
- `bank.py`: the default ones or a user's own in memory, and variations of them
"""
