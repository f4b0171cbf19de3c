"""Names of the classes of a set, by language. The names of ELEVATER's twenty sets are included.

The English names are those of the benchmark (Li et al., arXiv 2204.08790), the Chinese names were written for this
project: `names/SET.json` maps each English name to its Chinese name, and notes which translations are uncertain and
why.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.text.writing_systems import LANGUAGES, is_written_in

NAMES = Path(__file__).parent / "names"
SETS = tuple(sorted(path.stem for path in NAMES.glob("*.json")))
FORMS = "a JSON list of {language: name}, a JSON list of names, or a .txt file with one name per line"


@dataclass(frozen=True)
class ClassNames:
    """Names of classes in several languages.

    Args:
        names: Names by language, one per class, in the same order in all languages.
        key: Language of the names that the data use as labels.
    """

    names: dict[str, list[str]]
    key: str = "en"

    @classmethod
    def read(cls, source: str | Path, key: str = "en", languages: Sequence[str] = ()) -> "ClassNames":
        """Read class names of an included set or of a file.

        A file is a JSON list of `{"en": ..., "zh": ...}`, one entry per class. It may also be a plain list of names in
        one language: a JSON list of strings, or a .txt file with one name per line. The labels of the data are then
        these names.

        Args:
            source: Id of a set of ELEVATER, such as `cifar-100` (see `SETS`), or a file.
            key: Language of the names that the data use as labels; for a plain list, the default of its language,
                unless all names are in the script of another language of this project.
            languages: Languages that will be used. For a plain list, at most one: the language of its names.

        Raises:
            ValueError: The file is missing or has another form, a class has no name in a language, two classes share a
                name, or several languages are given for a plain list.
        """
        path = NAMES / f"{source}.json" if source in SETS else Path(source)
        try:
            classes = _parse(path)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"class_names: cannot read {str(source)!r} ({error}). Give {FORMS}, or the id of a set of ELEVATER: "
                f"{', '.join(SETS)}."
            ) from error
        if source in SETS:
            classes = [{"en": english, "zh": name["zh"]} for english, name in classes["classes"].items()]
        if isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes):
            if len(set(languages)) > 1:
                raise ValueError(
                    f"class_names: {str(path)!r} is a plain list of names in one language, and the languages "
                    f"{list(languages)} are given. Give one language, or a JSON list of {{language: name}}."
                )
            key = languages[0] if languages else _language_of(classes, key)
            classes = [{key: name} for name in classes]
        names = _by_language(classes, path)
        if key not in names:
            raise ValueError(
                f"class_names: {str(path)!r} has no names in {key!r}, the language of the labels, only "
                f"{sorted(names)}."
            )
        for language, listed in names.items():
            for number, name in enumerate(listed):
                if not isinstance(name, str) or not name.strip():
                    raise ValueError(
                        f"class_names: class {number} of {str(path)!r} has the {language} name {name!r}. Write one."
                    )
            if repeated := [name for name, count in Counter(listed).items() if count > 1]:
                raise ValueError(
                    f"class_names: {str(path)!r} has several classes with the same {language} name: "
                    f"{sorted(repeated)[:3]}."
                )
        return cls(names, key)

    def in_language(self, language: str) -> list[str]:
        """Names in one language, in class order.

        Raises:
            ValueError: There are no names in this language.
        """
        if language not in self.names:
            raise ValueError(f"language: the class list has no names in {language!r}, only in {sorted(self.names)}.")
        return self.names[language]

    def label_ids(self, labels: Sequence[str]) -> Tensor:
        """Class indices, (N,) int64, of labels given by name.

        Raises:
            ValueError: A label is not among the class names.
        """
        numbers = {name: number for number, name in enumerate(self.names[self.key])}
        for row, label in enumerate(labels):
            if label not in numbers:
                raise ValueError(
                    f"label: row {row} is labelled {label!r}, which is not among the {len(numbers)} {self.key} "
                    "class names."
                )
        return torch.tensor([numbers[label] for label in labels])


def _parse(path: Path) -> Any:
    """Content of a JSON file, or the lines of a .txt file that are not blank."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".txt":
        return [line.strip() for line in text.splitlines() if line.strip()]
    return json.loads(text)


def _language_of(names: Sequence[str], default: str) -> str:
    """Language of a plain list of names: the default, unless all names are in the script of another one."""
    if default not in LANGUAGES or any(is_written_in(name, default) for name in names):
        return default
    return next((other for other in LANGUAGES if all(is_written_in(name, other) for name in names)), default)


def _by_language(classes: Any, path: Path) -> dict[str, list[str]]:
    """Names by language, of a list of {language: name}."""
    try:
        named = [other for other in LANGUAGES if any(other in entry for entry in classes)]
        languages = list(dict.fromkeys([*classes[0], *named]))
        for number, entry in enumerate(classes):
            if missing := [language for language in languages if isinstance(entry, dict) and language not in entry]:
                raise ValueError(
                    f"class_names: class {number} of {str(path)!r} has no name in {missing[0]!r}, and others have "
                    "one. Write it, or remove this language from all classes."
                )
        return {language: [entry[language] for entry in classes] for language in languages}
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"class_names: {str(path)!r} must be {FORMS}, with the same languages in every class ({error!r})."
        ) from error
