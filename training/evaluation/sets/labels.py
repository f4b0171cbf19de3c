"""From the labels of a data set to the classes of a protocol: by name, never by number.

Copies of a set order their classes in different ways, and write them in different ways: `aquarium_fish`, `Aquarium
fish`. Letters and digits decide; a set's aliases do the rest.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from training.evaluation.sets.class_names import ClassNames


def plain(name: str) -> str:
    """The letters and digits of a name, without case and accents."""
    decomposed = unicodedata.normalize("NFKD", name).casefold()
    return "".join(letter for letter in decomposed if letter.isalnum())


class ClassLookup:
    """Finds classes by their names in any language and by aliases.

    Args:
        class_names: the classes.
        aliases: other names, to one of the class list.
        where: set and file, for messages.
    """

    def __init__(self, class_names: ClassNames, aliases: dict[str, str], where: str):
        self.where = where
        self.count = len(class_names.names[class_names.key])
        self._ids: dict[str, list[int]] = {}
        languages = [class_names.key, *(name for name in class_names.names if name != class_names.key)]
        for language in languages:
            found = defaultdict(list)
            for number, name in enumerate(class_names.names[language]):
                found[plain(name)].append(number)
            self._ids = dict(found) | self._ids  # the language of the keys comes first
        for alias, name in aliases.items():
            self._ids.setdefault(plain(alias), self._ids[plain(name)])

    def find(self, name: str, occurrence: int = 0) -> int:
        """Number of the class with this name.

        Args:
            name: as the data write it.
            occurrence: which of several classes with one name, where the data list them in order.

        Raises:
            ValueError: there is none, or several and no way to tell.
        """
        ids = self._ids.get(plain(name), [])
        if len(ids) == 1 or 0 < occurrence < len(ids):
            return ids[occurrence]
        if not ids:
            raise ValueError(
                f"label: {self.where}: {name!r} is not among the {self.count} classes. Take the class list that "
                "belongs to these data, or rename the label."
            )
        raise ValueError(f"label: {self.where}: {name!r} names {len(ids)} classes. Label them by their WordNet ids.")

    def find_listed(self, names: Sequence[str]) -> list[int | str]:
        """Numbers of the classes that the data list; for one that is not of the protocol, its name."""
        found: list[int | str] = []
        for number, name in enumerate(names):
            ids, before = self._ids.get(plain(name), []), names[:number].count(name)
            found.append(ids[before] if before < len(ids) else name)
        return found


def class_ids(cells: Iterable[Any], lookup: ClassLookup, listed: Sequence[str] | None) -> Tensor:
    """Classes of all rows.

    Args:
        cells: a name or a number each, or a list of these where an image shows several classes, or a list of a 0 or
            1 for each listed class.
        lookup: the protocol's classes.
        listed: what the numbers mean; None where the data do not say.

    Returns:
        (N,) int64, or (N, C) int8 with 1 where a class is in the image.

    Raises:
        ValueError: a label is not in the class list, or numbers have no names.
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
    flags = listed is not None and all(len(cell) == len(listed) and set(cell) <= {0, 1} for cell in cells)
    for row, cell in enumerate(cells):
        shown = [number for number, flag in enumerate(cell) if flag] if flags else cell
        targets[row, [find(label) for label in shown]] = 1
    return targets


def _find(cell: Any, lookup: ClassLookup, numbers: list[int | str] | None) -> int:
    if isinstance(cell, str):
        return lookup.find(cell)
    if not isinstance(cell, int):
        raise ValueError(f"label: {lookup.where}: got {cell!r}, need a name or a number with a name.")
    if numbers is None:
        try:
            return lookup.find(str(cell))  # classes that are called by digits, such as MNIST's
        except ValueError:
            raise ValueError(
                f"label: {lookup.where}: label {cell} has no name, and the order of classes differs between copies. "
                "Name a column of names with --label_column, or list the names, one a line, with "
                "--label_names SET=FILE."
            ) from None
    if not 0 <= cell < len(numbers):
        raise ValueError(f"label: {lookup.where}: label {cell} is out of range 0..{len(numbers) - 1} of its names.")
    number = numbers[cell]
    return lookup.find(number) if isinstance(number, str) else number
