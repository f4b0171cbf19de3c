"""From the labels of a data set to the classes of a protocol: by name, never by number.

Copies of a set order and spell their classes differently: `aquarium_fish`, `Aquarium fish`. A name with the
spelling of the class list, such as `C++`, is that class. Others are compared by letters and digits alone; the aliases
of a set cover all other spellings.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from training.evaluation.sets.class_names import ClassNames


def normalize_name(name: str) -> str:
    """Letters and digits of a name, without case and accents."""
    decomposed = unicodedata.normalize("NFKD", name).casefold()
    return "".join(letter for letter in decomposed if letter.isalnum())


class ClassLookup:
    """Finds classes by their names in any language and by aliases.

    Args:
        class_names: Names of the classes.
        aliases: Other spellings, each mapped to a name of the class list.
        context: Set and file, for error messages.
    """

    def __init__(self, class_names: ClassNames, aliases: dict[str, str], context: str):
        self.context = context
        self.count = len(class_names.names[class_names.key])
        self._ids: dict[str, list[int]] = {}
        self._exact: dict[str, list[int]] = {}
        languages = [class_names.key, *(name for name in class_names.names if name != class_names.key)]
        for language in languages:
            found, exact = defaultdict(list), defaultdict(list)
            for number, name in enumerate(class_names.names[language]):
                exact[name.strip()].append(number)
                if key := normalize_name(name):
                    found[key].append(number)
            # names in the language of the labels take precedence
            self._ids, self._exact = dict(found) | self._ids, dict(exact) | self._exact
        for alias, name in aliases.items():
            self._ids.setdefault(normalize_name(alias), self._ids[normalize_name(name)])

    def find(self, name: str, occurrence: int = 0) -> int:
        """Index of the class with a name.

        Args:
            name: Name as the data spell it.
            occurrence: Position among several classes of the same name, where the data list them in order.

        Raises:
            ValueError: There is no such class, or several with this name.
        """
        ids = self._candidates(name)
        if len(ids) == 1 or 0 < occurrence < len(ids):
            return ids[occurrence]
        if not ids:
            raise ValueError(
                f"label: {self.context}: {name!r} is not among the {self.count} classes. Use the class list that "
                "belongs to these data, or rename the label."
            )
        raise ValueError(
            f"label: {self.context}: {name!r} is the name of {len(ids)} classes. Spell it as the class list does, or "
            "give the classes names of their own; those of ImageNet have WordNet ids."
        )

    def _candidates(self, name: str) -> list[int]:
        return self._exact.get(name.strip()) or self._ids.get(normalize_name(name), [])

    def find_listed(self, names: Sequence[str]) -> list[int | str]:
        """Indices of the classes that the data list; a name that the protocol does not have is returned unchanged."""
        found: list[int | str] = []
        for number, name in enumerate(names):
            ids, occurrence = self._candidates(name), names[:number].count(name)
            found.append(ids[occurrence] if occurrence < len(ids) else name)
        return found


def class_ids(cells: Iterable[Any], lookup: ClassLookup, listed: Sequence[str] | None) -> Tensor:
    """Classes of all rows.

    Args:
        cells: Labels, each a name or a number, or a list of these where an image has several labels, or a list with a
            0 or 1 for each listed class.
        lookup: Classes of the protocol.
        listed: Names that the numbers index; None if the data do not list any.

    Returns:
        (N,) int64, or (N, C) int8 with 1 where the image has the label.

    Raises:
        ValueError: A label is not in the class list, or numbers have no names.
    """
    cells = list(cells)
    numbers = None if listed is None else lookup.find_listed(listed)
    known: dict[Any, int] = {}

    def find(cell: Any) -> int:
        if cell not in known:
            known[cell] = _find(cell, lookup, numbers)
        return known[cell]

    if not any(isinstance(cell, list | tuple) for cell in cells):
        return torch.tensor([find(cell) for cell in cells])
    targets = torch.zeros(len(cells), lookup.count, dtype=torch.int8)
    are_flags = listed is not None and all(len(cell) == len(listed) and set(cell) <= {0, 1} for cell in cells)
    for row, cell in enumerate(cells):
        labels = [number for number, flag in enumerate(cell) if flag] if are_flags else cell
        targets[row, [find(label) for label in labels]] = 1
    return targets


def _find(cell: Any, lookup: ClassLookup, numbers: list[int | str] | None) -> int:
    if isinstance(cell, str):
        return lookup.find(cell)
    if not isinstance(cell, int):
        raise ValueError(f"label: {lookup.context}: got {cell!r}, need a name or a number with a name.")
    if numbers is None:
        try:
            return lookup.find(str(cell))  # class names that are digits, such as those of MNIST
        except ValueError:
            raise ValueError(
                f"label: {lookup.context}: label {cell} has no name, and copies of a set order their classes "
                "differently. Choose a column of names with --label_column, or list the names, one per line, with "
                "--label_names SET=FILE."
            ) from None
    if not 0 <= cell < len(numbers):
        raise ValueError(f"label: {lookup.context}: label {cell} is out of range 0..{len(numbers) - 1} of its names.")
    number = numbers[cell]
    return lookup.find(number) if isinstance(number, str) else number
