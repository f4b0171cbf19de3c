"""Images and weights that pip packages bring, with a free license.

emoji.py       the embedded corpus: emoji with English and Chinese names
held_out.py    its test sets
pretrained.py  image towers with ImageNet weights
"""
