"""Tokenizers, cut vocabularies, scripts and text identity.

identity.py         ids of texts and digests of text lists, equal in any process and run
pipeline.py         the content of `tokenizer.json`: read, compare, cut and save it
spelling.py         letter case, underscores and hyphens, traditional and simplified Chinese
tokenizers.py       load a tokenizer, compare two, match the tokens of one to another
vocabulary.py       a vocabulary cut from a larger one, with the ids that connect the two
writing_systems.py  scripts of characters, texts and languages
"""
