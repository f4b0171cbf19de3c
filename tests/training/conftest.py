"""A cut of a Unigram tokenizer in XLM-R's layout, trained on the names of emoji in fourteen languages."""

import pytest
from emoji import LANGUAGES
from emoji.unicode_codes import EMOJI_DATA, load_from_json

from tests.tiny import train_unigram
from training.prepare.cut import count_pieces, cut_vocabulary

SIZE = 3000


@pytest.fixture(scope="session")
def names():
    """Names of emoji, by language."""
    found = {}
    for language in LANGUAGES:
        load_from_json(language)
        found[language] = []
        for data in EMOJI_DATA.values():
            if language in data:
                found[language].append(data[language].strip(":").replace("_", " "))
    return found


@pytest.fixture(scope="session")
def english_and_chinese(names):
    return [*names["en"], *names["zh"]]


@pytest.fixture(scope="session")
def source(names):
    """Of all fourteen languages, with a token that is not in the model."""
    texts = []
    for of_language in names.values():
        # without skin tones, which repeat the same words
        texts += [text for text in of_language[::3] if ":" not in text]
    tokenizer = train_unigram(texts, 9000)
    tokenizer.add_tokens("DC-CLIP")
    return tokenizer


@pytest.fixture(scope="session")
def vocabulary(source, english_and_chinese):
    return cut_vocabulary(source, count_pieces(source, english_and_chinese), SIZE)
