"""One text: its words by script, traditional Chinese, and the language that a library names."""

import unicodedata
from collections import Counter
from functools import cache
from itertools import groupby

from training.text.writing_systems import script_of

# written without spaces: each letter counts as a word
UNSPACED = frozenset({"Han", "Hiragana", "Katakana"})
KANA_OR_HANGUL = frozenset({"Hiragana", "Katakana", "Hangul"})
APOSTROPHES = str.maketrans("", "", "'’")

# what the library calls the languages that are written like one of ours
SAME_AS = {"zh": frozenset({"zh", "yue", "wuu", "lzh", "gan", "hak", "nan"})}


def words_of(text: str) -> list[tuple[str, str]]:
    """The words of a text, each with its script, in order.

    An ideograph or kana is a word of its own; digits and punctuation belong to none.
    """
    words: list[tuple[str, str]] = []
    for script, letters in groupby(unicodedata.normalize("NFKC", text).translate(APOSTROPHES), script_of):
        if script in UNSPACED:
            words += [(letter, script) for letter in letters]
        elif script is not None:
            words.append(("".join(letters), script))
    return words


def script_shares(words: list[tuple[str, str]]) -> dict[str, float]:
    """Share (0..1) of the words in each script."""
    counts = Counter(script for _, script in words)
    return {script: count / len(words) for script, count in counts.items()}


def is_traditional(text: str) -> bool:
    """Whether a text has more characters of traditional than of simplified Chinese alone.

    The national character sets tell: GB 2312 is simplified, Big5 traditional, and what both have is common to both.
    """
    return sum(map(_leaning, text)) > 0


@cache
def _leaning(character: str) -> int:
    if script_of(character) != "Han":
        return 0
    return _is_in(character, "big5") - _is_in(character, "gb2312")


def _is_in(character: str, charset: str) -> bool:
    try:
        character.encode(charset)
    except UnicodeEncodeError:
        return False
    return True


class LanguageIdentifier:
    """Asks py3langid (BSD-3-Clause; its model comes in the wheel) which language a text is in.

    Raises:
        ValueError: it is not installed.
    """

    def __init__(self):
        try:
            from py3langid import langid
        except ImportError as error:
            raise ValueError(
                f"max_other_language: py3langid is not there ({error}). Install it (pip install py3langid), or give "
                "null."
            ) from error
        self._identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)

    def other_language(self, text: str, language: str) -> float:
        """The probability (0..1) of the likeliest language where that is not `language`, else 0."""
        likeliest, probability = self._identifier.classify(text)
        return 0.0 if likeliest in SAME_AS.get(language, {language}) else float(probability)
