"""Prepare training inputs: commands, and what they share.

vocabulary.py       command: cut a tokenizer to English and Chinese; cut.py has the cut
open_clip.py        command: convert an open_clip checkpoint to a teacher
"""
