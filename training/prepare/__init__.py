"""Prepare training inputs: commands, and what they share.

vocabulary.py       command: cut a tokenizer to English and Chinese
cut.py              the cut
"""
