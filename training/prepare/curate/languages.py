"""Words of a text by script, detection of traditional Chinese, and language identification."""

import unicodedata
from collections import Counter
from functools import cache
from itertools import groupby

from training.text.writing_systems import script_of

# scripts written without spaces: each character counts as a word
UNSPACED = frozenset({"Han", "Hiragana", "Katakana"})
KANA_OR_HANGUL = frozenset({"Hiragana", "Katakana", "Hangul"})
APOSTROPHES = str.maketrans("", "", "'’")

# labels of py3langid for languages that share their written form with one of ours
SAME_AS = {"zh": frozenset({"zh", "yue", "wuu", "lzh", "gan", "hak", "nan"})}


def words_of(text: str) -> list[tuple[str, str]]:
    """The words of a text, each with its script, in order.

    Each ideograph or kana is one word. Digits and punctuation are not part of any word.
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
    """Whether a text has more exclusively traditional than exclusively simplified Chinese characters.

    A character is traditional if Big5 has it and GB 2312 does not, and simplified if GB 2312 has it and Big5 does not.
    """
    return sum(map(_traditional_score, text)) > 0


@cache
def _traditional_score(character: str) -> int:
    """1 for traditional, -1 for simplified, 0 for any other character."""
    if script_of(character) != "Han":
        return 0
    return _can_encode(character, "big5") - _can_encode(character, "gb2312")


def _can_encode(character: str, charset: str) -> bool:
    try:
        character.encode(charset)
    except UnicodeEncodeError:
        return False
    return True


class LanguageIdentifier:
    """Language identification with py3langid (BSD-3-Clause; the wheel includes the model).

    Raises:
        ValueError: If py3langid is not installed.
    """

    def __init__(self):
        try:
            from py3langid import langid
        except ImportError as error:
            raise ValueError(
                f'max_other_language: py3langid is not installed ({error}). Run `pip install -e ".[curate]"`, or set '
                "max_other_language to null."
            ) from error
        self._identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)

    def other_language(self, text: str, language: str) -> float:
        """Probability (0..1) of the most likely language if it differs from `language`, else 0."""
        most_likely, probability = self._identifier.classify(text)
        return 0.0 if most_likely in SAME_AS.get(language, {language}) else float(probability)
