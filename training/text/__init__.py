"""Tokenizers, cut vocabularies and scripts.

phrasing.py         captions in the words of a search
pipeline.py         the content of `tokenizer.json`: read, compare, cut and save it
scenes.py           sentences about everyday scenes
tokenizers.py       load a tokenizer, compare two, match the tokens of one to another
vocabulary.py       a vocabulary cut from a larger one, with the ids that connect the two
writing_systems.py  scripts of characters, texts and languages
"""
