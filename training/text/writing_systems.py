"""Which script a character is written in, as far as the standard library knows it."""

import unicodedata
from functools import cache

LANGUAGES = ("en", "zh")  # of every model of this project, as ISO 639-1 codes
OURS = frozenset({"Latin", "Han"})  # their scripts
# of the letters that a sentence cannot do without
SCRIPTS_OF = {
    **dict.fromkeys(("cs", "de", "en", "es", "fr", "id", "it", "nl", "pl", "pt", "tr", "vi"), frozenset({"Latin"})),
    "ar": frozenset({"Arabic"}),
    "el": frozenset({"Greek"}),
    "he": frozenset({"Hebrew"}),
    "hi": frozenset({"Devanagari"}),
    "ja": frozenset({"Han", "Hiragana", "Katakana"}),
    "ko": frozenset({"Hangul"}),
    "ru": frozenset({"Cyrillic"}),
    "th": frozenset({"Thai"}),
    "uk": frozenset({"Cyrillic"}),
    "zh": frozenset({"Han"}),
}


@cache
def script_of(character: str) -> str | None:
    """The script of a letter, such as `Latin`, `Han` or `Cyrillic`; None for digits, punctuation and marks."""
    character = unicodedata.normalize("NFKC", character)[0]  # full-width letters are Latin
    if not character.isalpha():
        return None
    # a letter's name begins with its script; Unicode's blocks of ideographs have names that begin with CJK
    script = unicodedata.name(character, "UNNAMED").split()[0].split("-")[0]
    return "Han" if script == "CJK" else script.capitalize()


def is_ideograph(piece: str) -> bool:
    """Whether a piece is one Chinese character."""
    return len(piece) == 1 and script_of(piece) == "Han"


def is_punctuation(piece: str) -> bool:
    """Whether a piece is one punctuation mark."""
    return len(piece) == 1 and unicodedata.category(piece).startswith("P")


def is_ours(piece: str) -> bool:
    """Whether all letters of a piece are Latin or Chinese."""
    return all(script_of(character) in OURS for character in piece if script_of(character))


def is_written_in(text: str, language: str) -> bool:
    """Whether a text has a letter of its language's script, or no letter at all (digits and emoji are of no script).

    Args:
        text: any.
        language: ISO 639-1 code; of a language that is not in `SCRIPTS_OF` nothing is asked.
    """
    wanted = SCRIPTS_OF.get(language)
    if wanted is None:
        return True
    has_letters = False
    for character in text:
        if (script := script_of(character)) in wanted:
            return True
        has_letters = has_letters or script is not None
    return not has_letters
