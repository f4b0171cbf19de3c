"""Tokenizers, cut vocabularies and scripts.

pipeline.py         the content of `tokenizer.json`: read, compare, cut and save it
tokenizers.py       load a tokenizer, compare two, match the tokens of one to another
vocabulary.py       a vocabulary cut from a larger one, with the ids that connect the two
writing_systems.py  scripts of characters, texts and languages
"""
