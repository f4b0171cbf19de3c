"""Scripts of characters, texts and languages, as far as the standard library knows them.

A script is the writing system of a letter, such as `Latin`, `Han` (Chinese characters) or `Cyrillic`. Digits,
punctuation and emoji have none.
"""

import unicodedata
from functools import cache

LANGUAGES = ("en", "zh")  # ISO 639-1 codes of the languages that all models of this project support
LANGUAGE_NAMES = {"en": "English", "zh": "Chinese"}  # in English
SUPPORTED_SCRIPTS = frozenset({"Latin", "Han"})  # the scripts of these languages
# scripts of each language; a text needs a letter of one of them
SCRIPTS_OF = {
    **dict.fromkeys(
        ("cs", "de", "en", "es", "fr", "id", "it", "nl", "pl", "pt", "tr", "vi"),
        frozenset({"Latin"}),
    ),
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


# with Chinese characters among them, a text is not Chinese
OTHER_ASIAN = frozenset({"Hiragana", "Katakana", "Hangul"})


@cache
def script_of(character: str) -> str | None:
    """Return the script of a letter, such as `Latin` or `Han`; None for digits, punctuation and marks."""
    character = unicodedata.normalize("NFKC", character)[0]  # full-width letters are Latin
    if not character.isalpha():
        return None
    # a letter's Unicode name starts with its script, except that names of ideographs start with CJK
    script = unicodedata.name(character, "UNNAMED").split()[0].split("-")[0]
    return "Han" if script == "CJK" else script.capitalize()


def language_of(text: str) -> str | None:
    """Language of a text by its script: `zh` with a Chinese character, else `en` with a Latin letter, else None."""
    scripts = {script_of(character) for character in text}
    if scripts & OTHER_ASIAN:
        return None
    if "Han" in scripts:
        return "zh"
    return "en" if "Latin" in scripts else None


def is_written_in(text: str, language: str) -> bool:
    """Check whether a text has a letter of a script of its language. A text without letters passes.

    Args:
        text: Any text.
        language: ISO 639-1 code; a language that is not in `SCRIPTS_OF` is not checked.
    """
    expected = SCRIPTS_OF.get(language)
    if expected is None:
        return True
    has_letters = False
    for character in text:
        if (script := script_of(character)) in expected:
            return True
        has_letters = has_letters or script is not None
    return not has_letters
