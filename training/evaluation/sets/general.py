"""General texts that come with this project: class names of everyday sets, each in two forms.

They show what a text tower knows beyond the data that it is fine-tuned on. One half is an anchor in training, the
other half measures it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.evaluation.sets.class_names import ClassNames

SETS = ("caltech-101", "cifar-100", "dtd", "food-101", "oxford-flower-102", "oxford-iiit-pets",
        "resisc45_clip", "voc-2007-classification")  # fmt: skip
TEMPLATE_SET = "cifar-100"  # the templates of photographs of any object


@dataclass(frozen=True)
class GeneralPairs:
    """Pairs of texts with the same meaning.

    Args:
        first: One text of each pair.
        second: The other text of each pair, in the same order.
        languages: Languages of the first and of the second texts (ISO 639-1 codes).
    """

    first: list[str]
    second: list[str]
    languages: tuple[str, str]

    @property
    def texts(self) -> list[str]:
        """All texts."""
        return [*self.first, *self.second]


def general_pairs(languages: Sequence[str], held_out: bool) -> GeneralPairs:
    """Class names in English and Chinese; for a model of one language, each with its first prompt.

    Args:
        languages: Languages of the model (ISO 639-1 codes).
        held_out: Whether to return the half that measures, and not the half for training.

    Raises:
        ValueError: The class names are in none of these languages.
    """
    pairs: dict[str, str] = {}
    for name in SETS:
        by_language = ClassNames.read(name).names
        pairs |= dict(zip(by_language["en"], by_language["zh"], strict=True))
    unique = {zh: en for en, zh in reversed(pairs.items())}  # a pair has no second translation
    half = sorted((en.strip(), zh) for zh, en in unique.items())[held_out::2]
    english, chinese = [en for en, _ in half], [zh for _, zh in half]
    if {"en", "zh"} <= set(languages):
        return GeneralPairs(english, chinese, ("en", "zh"))
    language = next((code for code in languages if code in ("en", "zh")), None)
    if language is None:
        raise ValueError(
            f"languages: there are no general texts in {list(languages)}, only in en and zh. Name a model of one."
        )
    names = english if language == "en" else chinese
    template = general_templates(language)[0]
    return GeneralPairs(names, [template.format(name) for name in names], (language, language))


def general_templates(language: str) -> tuple[str, ...]:
    """Prompt templates of photographs of any object; the bare name in a language without templates.

    Args:
        language: ISO 639-1 code.
    """
    path = Path(__file__).parent / "templates" / f"{language}.json"
    return tuple(json.loads(path.read_text(encoding="utf-8"))[TEMPLATE_SET]) if path.is_file() else ("{}",)
