"""Images that pip packages bring, with a free license.

emoji.py        the embedded corpus: emoji with English and Chinese names
free_photos.py  photographs, and random crops of them
"""
