"""The names of the classes of a test, by language. Those of ELEVATER's twenty sets come along.

The English names are the benchmark's (Li et al., arXiv 2204.08790), the Chinese ones were written for this project:
`names/SET.json` maps each English name to its Chinese one, and says where that is doubtful and why.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

NAMES = Path(__file__).parent / "names"
SETS = tuple(sorted(path.stem for path in NAMES.glob("*.json")))


@dataclass(frozen=True)
class ClassNames:
    """The classes of a test, in several languages.

    Args:
        names: for each language, one name a class; the same order in all.
        key: the language whose names the labels of the data use.
    """

    names: dict[str, list[str]]
    key: str = "en"

    @classmethod
    def read(cls, source: str | Path, key: str = "en") -> "ClassNames":
        """Read the names of one of ELEVATER's sets, which come along, or a JSON list of `{"en": ..., "zh": ...}`.

        Args:
            source: id of a set, such as `cifar-100` (see `SETS`), or a file.
            key: language in which the data name their labels.

        Raises:
            ValueError: the file is missing or of another form, a language is missing from a class, or two classes
                share a name.
        """
        path = NAMES / f"{source}.json" if source in SETS else Path(source)
        try:
            classes = json.loads(path.read_text(encoding="utf-8"))
            if source in SETS:
                classes = [{"en": english, "zh": name["zh"]} for english, name in classes["classes"].items()]
            names = {language: [entry[language] for entry in classes] for language in classes[0]}
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(
                f"class_names: cannot read {str(source)!r} ({error}). Give a JSON list of {{language: name}}, or the "
                f"id of one of ELEVATER's sets: {', '.join(SETS)}."
            ) from error
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"class_names: {str(path)!r} must be a JSON list with the same languages in every class ({error!r})."
            ) from error
        if key not in names:
            raise ValueError(
                f"class_names: {str(path)!r} has no names in {key!r}, the language of the labels, only "
                f"{sorted(names)}."
            )
        for language, listed in names.items():
            if (
                twice := {name for name in listed if listed.count(name) > 1}
                if len(set(listed)) < len(listed)
                else None
            ):
                raise ValueError(
                    f"class_names: {str(path)!r} has several classes with the same {language} name: "
                    f"{sorted(twice)[:3]}."
                )
        return cls(names, key)

    def in_language(self, language: str) -> list[str]:
        """The names in one language.

        Raises:
            ValueError: there are none.
        """
        if language not in self.names:
            raise ValueError(f"language: the class list has no names in {language!r}, only in {sorted(self.names)}.")
        return self.names[language]

    def label_ids(self, labels: Sequence[str]) -> Tensor:
        """Class numbers (N,) of labels by name.

        Raises:
            ValueError: a label is not in the list.
        """
        numbers = {name: number for number, name in enumerate(self.names[self.key])}
        for row, label in enumerate(labels):
            if label not in numbers:
                raise ValueError(
                    f"label: row {row} is labelled {label!r}, which is not among the {len(numbers)} {self.key} "
                    "class names."
                )
        return torch.tensor([numbers[label] for label in labels])
