"""Which script a character is written in, as far as the standard library knows it."""

import unicodedata
from functools import cache

OURS = frozenset({"Latin", "Han"})


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
