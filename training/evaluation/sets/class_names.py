"""Names of the classes of a set, by language, and pairs of general texts made of them.

The names of ELEVATER's twenty sets are included. The English ones are the benchmark's (Li et al., arXiv 2204.08790).
The Chinese ones were written for this project: `names/SET.json` maps each English name to its Chinese name, and notes
which translations are uncertain and why.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.text.writing_systems import LANGUAGES, is_written_in
from training.utils.files import expanded
from training.utils.reading import read_text
from training.utils.trust import FUNCTION, call_function

NAMES = Path(__file__).parent / "names"
SETS = tuple(sorted(path.stem for path in NAMES.glob("*.json")))
FORMS = (
    "a JSON list of {language: name}, a JSON list of names, or a .txt file with one name per line"
)
# everyday sets whose names are the general texts
GENERAL_SETS = (
    "caltech-101",
    "cifar-100",
    "dtd",
    "food-101",
    "oxford-flower-102",
    "oxford-iiit-pets",
    "resisc45_clip",
    "voc-2007-classification",
)
GENERAL_TEMPLATES = "cifar-100"  # the set whose templates suit photographs of any object


@dataclass(frozen=True)
class ClassNames:
    """Names of classes in several languages.

    Args:
        names: Names by language, one per class, in the same order in all languages.
        key: Language whose names take precedence as labels.
    """

    names: dict[str, list[str]]
    key: str = "en"

    @classmethod
    def read(cls, source: str | Path, languages: Sequence[str] = ()) -> "ClassNames":
        """Read class names of an included set, a file or a function.

        A file is a JSON list of `{"en": ..., "zh": ...}`, one entry per class. It may also be a plain list of names in
        one language: a JSON list of strings, or a .txt file with one name per line.

        Args:
            source: Id of a set of ELEVATER, such as `cifar-100` (see `SETS`), a file, or `module:function` that
                returns the content of such a JSON file.
            languages: Languages that will be used. The first one is the language of a plain list. Default: en, or zh
                if all names are in Chinese script.

        Raises:
            ValueError: The file is missing or does not have this form, a class has no name in a language, or two
                classes share a name.
        """
        name = str(source)
        path = NAMES / f"{name}.json" if name in SETS else expanded(name)
        try:
            classes: Any = call_function(name) if FUNCTION.fullmatch(name) else _read_classes(path)
            if isinstance(classes[0], str):
                names = {languages[0] if languages else _language_of(classes): classes}
            else:
                names = {}
                for language in classes[0]:
                    names[language] = [entry.get(language) for entry in classes]
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"class_names: cannot read {str(path)!r} ({error!r}). Give {FORMS}, or the id of a set of "
                f"ELEVATER: {', '.join(SETS)}."
            ) from error
        for language, listed in names.items():
            for number, name in enumerate(listed):
                if not isinstance(name, str) or not name.strip() or name in listed[:number]:
                    raise ValueError(
                        f"class_names: class {number} of {str(path)!r} has the {language} name {name!r}. Give every "
                        f"class a {language} name of its own, or remove this language from all classes."
                    )
        return cls(names, "en" if "en" in names else next(iter(names)))

    def in_language(self, language: str) -> list[str]:
        """Names in one language, in class order.

        Raises:
            ValueError: The classes have no names in this language.
        """
        if language not in self.names:
            raise ValueError(
                f"language: the class list has no names in {language!r}, only in {sorted(self.names)}."
            )
        return self.names[language]


def _read_classes(path: Path) -> Any:
    content = read_text(path, "utf-8-sig")
    if path.suffix == ".txt":
        return [line.strip() for line in content.splitlines() if line.strip()]
    classes = json.loads(content)
    if path.parent == NAMES:
        return [{"en": english, "zh": each["zh"]} for english, each in classes["classes"].items()]
    return classes


def _language_of(names: Sequence[str]) -> str:
    """Language of a plain list of names, by the script of all of them; en if no language fits."""
    if any(is_written_in(name, "en") for name in names):
        return "en"
    for language in LANGUAGES:
        if all(is_written_in(name, language) for name in names):
            return language
    return "en"


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
    """Class names of everyday sets in English and Chinese; for a model of one language, each with its first prompt.

    They measure whether a text tower forgets during fine-tuning. One half is for training, the other half measures.

    Args:
        languages: Languages of the model (ISO 639-1 codes).
        held_out: Whether to return the half that measures instead of the half for training.

    Raises:
        ValueError: The class names are in none of these languages.
    """
    pairs: dict[str, str] = {}
    for name in GENERAL_SETS:
        by_language = ClassNames.read(name).names
        pairs |= dict(zip(by_language["en"], by_language["zh"], strict=True))
    unique: dict[str, str] = {}
    for en, zh in pairs.items():
        unique.setdefault(zh, en.strip())  # a pair has no second translation
    half = sorted((en, zh) for zh, en in unique.items())[1 if held_out else 0 :: 2]
    english = [en for en, _ in half]
    chinese = [zh for _, zh in half]
    if {"en", "zh"} <= set(languages):
        return GeneralPairs(english, chinese, ("en", "zh"))
    language = next((code for code in languages if code in ("en", "zh")), None)
    if language is None:
        raise ValueError(
            f"languages: general texts exist in en and zh, not in {list(languages)}. Name a model of one."
        )
    names = english if language == "en" else chinese
    path = Path(__file__).parent / "templates" / f"{language}.json"
    template = json.loads(path.read_text(encoding="utf-8"))[GENERAL_TEMPLATES][0]
    return GeneralPairs(names, [template.format(name) for name in names], (language, language))
