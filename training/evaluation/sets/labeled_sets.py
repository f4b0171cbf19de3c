"""Labeled images of a test set, with labels mapped to classes by name, and compared with the set of the protocol.

Labels are mapped by name, never by number: copies of a set order and spell their classes differently, such as
`aquarium_fish` and `Aquarium fish`. A name that is spelled as in the class list, such as `C++`, is that class. Others
are compared by letters and digits alone; the aliases of a set cover all other spellings.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from datasets import ClassLabel, Dataset, List
from huggingface_hub import constants, get_session
from torch import Tensor

from training.data import require_allowed
from training.data.images import digest_images
from training.data.reader import Opened, Reading, open_source
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.protocols import EvalSet
from training.utils.cli import one_line
from training.utils.keys import Digest

HUB = "hub"
PROBE_TIMEOUT_S = 5
BLOCKED_STATUS = {403, 407, 502, 503, 504}  # sent by a proxy or a firewall instead of the Hub
IMAGE_COLUMNS = ("image", "img", "webp", "png", "jpg", "jpeg", "jpg;png;webp;jpeg")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls", "npy", "name", "en")


class MissingDataError(Exception):
    """No source was given for a set, and its data set on the Hub cannot be loaded."""


@dataclass(frozen=True)
class Source:
    """Location and format of a set.

    Args:
        location: Any source that `training.data.reader` reads, or `hub` for the set's own data set on the Hub.
        split: Split, where there are several. Default: test, or for the set's own data set, its test split there.
        image_column: Name of the column of images. Default: the first usual name that exists.
        label_column: Name of the column of labels. Default: the first usual name whose labels are class names.
        allow_paths: Whether rows may name image files outside the source.
    """

    location: str
    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    allow_paths: bool = False


@dataclass(frozen=True)
class LabeledSet:
    """A test set with class indices as labels.

    Args:
        rows: Rows with one column, `image`, of undecoded images.
        labels: Class indices, (N,) int64, or (N, C) int8 with 1 where the image has the label.
        source: Location that the rows were loaded from.
        split: Split of the source; None if it has no splits.
        revision: Commit of a data set on the Hub; None for other sources, which `version` identifies.
        differences: Differences from the set of the protocol, in words.
    """

    rows: Dataset
    labels: Tensor
    source: str = ""
    split: str | None = None
    revision: str | None = None
    differences: Sequence[str] = ()

    @property
    def version(self) -> str:
        """Digest of the images and their labels."""
        return Digest().add(digest_images(self.rows), self.labels.numpy()).hex()


def open_set(
    name: str, source: Source, class_names: ClassNames, eval_set: EvalSet | None = None
) -> LabeledSet:
    """Load a set, map its labels to classes, and compare it with the protocol.

    Args:
        name: Id of the set.
        source: Location of the set.
        class_names: Classes of the protocol.
        eval_set: Entry of the protocol; None for the user's own set.

    Raises:
        ValueError: There is nothing at the location, a column is missing, or a label is not in the class list.
        MissingDataError: The set's own data set on the Hub cannot be loaded.
    """
    location, opened = _open_source(name, source, eval_set)
    rows = opened.rows
    context = f"{name} ({location})"
    lookup = ClassLookup(class_names, eval_set.aliases if eval_set else {}, context)
    image = _usual_columns(rows, source.image_column, IMAGE_COLUMNS, context)[0]
    columns = _usual_columns(rows, source.label_column, LABEL_COLUMNS, context)
    labels = _labels(rows, columns, lookup, opened.class_names)
    has_several = eval_set is not None and eval_set.several_labels
    if labels.ndim == 2 and (labels.sum(1) == 1).all() and not has_several:
        labels = labels.argmax(1)  # lists of one label each
    images = require_allowed(
        rows.select_columns([image]),
        location,
        image,
        allow_paths=source.allow_paths,
        field=f"data: {name}",
    )
    images = images.rename_columns({image: "image"})
    differences = _find_differences(labels, class_names, eval_set) if eval_set else []
    return LabeledSet(images, labels, location, opened.split, opened.revision, differences)


def _open_source(name: str, source: Source, eval_set: EvalSet | None) -> tuple[str, Opened]:
    """Open a set; its own data set on the Hub has an error of its own."""
    location = source.location
    usual_split = "test"
    is_default = False
    if eval_set is not None:
        is_default = location == HUB
        if is_default:
            location = eval_set.hub
        if location.partition("@")[0] == eval_set.hub:
            usual_split = eval_set.split
    reading = Reading(
        split=source.split,
        usual_split=usual_split,
        image_column=source.image_column or "image",
        field=f"data: {name}",
    )
    try:
        if is_default and (error := _connection_error(constants.ENDPOINT)):
            raise ValueError(error) from error
        return location, open_source(location, reading)
    except ValueError as error:
        if not is_default:
            raise
        reason = one_line(error.__cause__ or error)
        raise MissingDataError(reason.replace(location, "the data set")[:200]) from error


@cache
def _connection_error(endpoint: str) -> Exception | None:
    """Why the Hub cannot be reached; None if it can. Asked once per run.

    Without this probe, `huggingface_hub` and `datasets` retry with growing pauses, up to half a minute for each set.
    """
    if constants.HF_HUB_OFFLINE:  # the cache may have the data
        return None
    try:
        response = get_session().head(endpoint, timeout=PROBE_TIMEOUT_S)
    except Exception as error:  # depends on the HTTP client of `huggingface_hub`
        return error
    if response.status_code in BLOCKED_STATUS:
        return ConnectionError(f"{endpoint} returned status {response.status_code}")
    return None


def _usual_columns(
    rows: Dataset, column: str | None, usual: Sequence[str], context: str
) -> list[str]:
    """The given column, or else all usual ones that exist."""
    wanted = [column] if column else usual
    if found := [name for name in wanted if name in rows.column_names]:
        return found
    raise ValueError(
        f"data: {context} has none of the columns {', '.join(wanted)}, only {', '.join(rows.column_names)}. Name the "
        "right one with --image_column or --label_column."
    )


def _labels(
    rows: Dataset, columns: Sequence[str], lookup: "ClassLookup", listed: list[str] | None
) -> Tensor:
    """Labels from the first column that has names."""

    def has_names(name: str) -> bool:
        """Whether the labels are names, numbers with names, or numbers that are names, as in MNIST."""
        if names_of(name) is not None or lookup.has(str(rows[name][0])):
            return True
        return "int" not in str(rows.features[name])

    def names_of(name: str) -> list[str] | None:
        feature = rows.features[name]
        while isinstance(feature, List):
            feature = feature.feature
        return feature.names if isinstance(feature, ClassLabel) else listed

    chosen = next((name for name in columns if has_names(name)), columns[0])
    return class_ids(rows[chosen][:], lookup, names_of(chosen))


def _find_differences(labels: Tensor, class_names: ClassNames, eval_set: EvalSet) -> list[str]:
    """Differences between a set and the protocol's, in words."""
    differences = []
    if len(labels) != eval_set.num_images:
        differences.append(
            f"{len(labels):,} images, the protocol's test has {eval_set.num_images:,}"
        )
    if (labels.ndim == 2) != eval_set.several_labels:
        found, expected = "several labels", "one label"
        if labels.ndim == 1:
            found, expected = expected, found
        differences.append(f"{found} per image, the protocol has {expected}")
    names = class_names.names[class_names.key]
    counts = labels.sum(0) if labels.ndim == 2 else labels.bincount(minlength=len(names))
    if absent := (counts == 0).nonzero()[:, 0].tolist():
        example = names[absent[0]]
        differences.append(
            f"no image of {len(absent)} of {len(names)} classes, such as {example!r}"
        )
    return differences


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

    def __init__(self, class_names: ClassNames, aliases: Mapping[str, str], context: str):
        self.context = context
        self.count = len(class_names.names[class_names.key])
        self._exact: dict[str, list[int]] = {}
        self._alike: dict[str, list[int]] = {}
        # names in the language of the key take precedence
        for language in sorted(class_names.names, key=lambda name: name == class_names.key):
            exact = defaultdict(list)
            alike = defaultdict(list)
            for number, name in enumerate(class_names.names[language]):
                exact[name.strip()].append(number)
                alike[normalize_name(name)].append(number)
            self._exact |= exact
            self._alike |= alike
        for alias, name in aliases.items():
            self._alike.setdefault(normalize_name(alias), self._alike[normalize_name(name)])
        self._alike[""] = []

    def has(self, name: str) -> bool:
        """Whether exactly one class has this name."""
        return len(self._candidates(name)) == 1

    def find(self, name: str) -> int:
        """Index of the class with a name.

        Raises:
            ValueError: No class has this name, or several have it.
        """
        ids = self._candidates(name)
        if len(ids) == 1:
            return ids[0]
        raise ValueError(
            f"label: {self.context}: {name!r} is the name of {len(ids)} of the {self.count} classes. Spell it as the "
            "class list does, or name a column of class names with --label_column."
        )

    def _candidates(self, name: str) -> list[int]:
        return self._exact.get(name.strip()) or self._alike.get(normalize_name(name), [])

    def find_listed(self, names: Sequence[str]) -> list[int | str]:
        """Indices of the classes that the data list; a name that the protocol does not have is returned unchanged.

        Classes of the same name are told apart by their order in the list.
        """
        found: list[int | str] = []
        for number, name in enumerate(names):
            ids = self._candidates(name)
            occurrence = names[:number].count(name)
            found.append(ids[occurrence] if occurrence < len(ids) else name)
        return found


def class_ids(
    cells: Sequence[Any], lookup: ClassLookup, listed: Sequence[str] | None = None
) -> Tensor:
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
    classes = lookup.find_listed(listed or [])

    @cache
    def find(cell: Any) -> int:
        if isinstance(cell, int) and 0 <= cell < len(classes):
            cell = classes[cell]
            if isinstance(cell, int):
                return cell
        return lookup.find(str(cell))

    if not any(isinstance(cell, list) for cell in cells):
        return torch.tensor([find(cell) for cell in cells])
    labels = [cell if isinstance(cell, list) else [cell] for cell in cells]
    are_flags = bool(classes)
    for cell in labels:
        are_flags &= len(cell) == len(classes) and {*cell} <= {0, 1}
    targets = torch.zeros(len(labels), lookup.count, dtype=torch.int8)
    for row, cell in enumerate(labels):
        if are_flags:
            cell = [number for number, flag in enumerate(cell) if flag]
        for label in cell:
            targets[row, find(label)] = 1
    return targets
