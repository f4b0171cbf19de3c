"""Everyday queries, and which photographs show what they name, by their captions."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from training.evaluation.retrieval import RetrievalSet

EVERYDAY = json.loads(Path(__file__).with_name("everyday.json").read_text(encoding="utf-8"))
# if a photograph has `MANY_CAPTIONS`, `SOME_CAPTIONS` have to name what it shows; else one
MANY_CAPTIONS, SOME_CAPTIONS = 5, 2


def captions_of(sets: Sequence[RetrievalSet]) -> list[list[str]]:
    """The captions of each photograph, in all languages."""
    captions: list[list[str]] = []
    for each in sets:
        texts: list[list[str]] = [[] for _ in range(len(each.rows))]
        for language, found in each.captions.items():
            for (image, _), text in zip(each.pairs[language].tolist(), found, strict=True):
                texts[image].append(text)
        captions += texts
    return captions


def photos_that_show(
    captions: Sequence[Sequence[str]], asked: Iterable[Sequence[str]]
) -> np.ndarray:
    """Which photographs show all that a query names, by their captions, (Q, I) bool.

    Args:
        captions: Captions of I photographs.
        asked: What each of Q queries names: keys of `EVERYDAY["shown"]`.
    """
    enough = np.array([SOME_CAPTIONS if len(texts) >= MANY_CAPTIONS else 1 for texts in captions])
    shown = {}
    for name, expression in EVERYDAY["shown"].items():
        pattern = any_of(expression)
        counts = np.array([sum(bool(pattern.search(text)) for text in texts) for texts in captions])
        shown[name] = counts >= enough
    return np.array([np.all([shown[name] for name in names], 0) for names in asked])


def any_of(expression: str) -> re.Pattern:
    """Pattern of alternatives: Latin ones are whole words, Chinese ones stand anywhere."""
    alternatives = re.split(r"\|(?![^(\[]*[)\]])", expression)
    latin = [each for each in alternatives if each.isascii()]
    others = [each for each in alternatives if not each.isascii()]
    whole = [rf"\b(?:{'|'.join(latin)})\b"] if latin else []
    return re.compile("|".join([*whole, *others]), re.I)
