"""Images that pip packages bring, with a free licence.

emoji.py        the embedded corpus: emoji with English and Chinese names
free_photos.py  photographs
photo_crops.py  random crops of these photographs
"""
