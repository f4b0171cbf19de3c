"""Labelled images of a test set, compared with what the protocol says of the set."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datasets import ClassLabel, Dataset, Image, List
from torch import Tensor

from training.evaluation.models.image_loading import digest_images
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labels import ClassLookup, class_ids
from training.evaluation.sets.locations import Source, read_source
from training.evaluation.sets.protocols import EvalSet

IMAGE_COLUMNS = ("image", "img", "image", "webp", "png", "jpg", "jpeg", "jpg;png;webp;jpeg")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls", "npy", "name", "en")


@dataclass(frozen=True)
class LabelledSet:
    """A test set that is ready to be measured.

    Args:
        name: its id.
        rows: with a column `image`, undecoded.
        labels: (N,) class numbers, or (N, C) int8 where images show several classes.
        source: where it is from.
        split: of it; None where it has none.
        revision: commit of a data set on the Hub; None elsewhere, where `digest` tells copies apart.
        differs: how it differs from the protocol's set; empty where it does not.
    """

    name: str
    rows: Dataset
    labels: Tensor
    source: str
    split: str | None
    revision: str | None
    differs: list[str]

    @cached_property
    def digest(self) -> str:
        """Of all encoded images in their order: the key for what is stored of them."""
        return digest_images(self.rows)


def open_set(name: str, source: Source, class_names: ClassNames, eval_set: EvalSet | None = None) -> LabelledSet:
    """Load a set, map its labels to classes, and compare it with the protocol.

    Args:
        name: id of the set.
        source: where it lies.
        class_names: the classes of the protocol.
        eval_set: what the protocol says of it; None for a set of the user's own.

    Raises:
        ValueError: there is nothing there, a column is missing, or a label is not in the class list.
        MissingDataError: the set's copy on the Hub cannot be had.
    """
    found = read_source(name, source, eval_set)
    rows, where = found.rows, f"{name} ({found.place})"
    if not len(rows):
        raise ValueError(f"data: {where} has no images. Give a folder with a folder a class, or a parquet file.")
    lookup = ClassLookup(class_names, eval_set.aliases if eval_set else {}, where)
    image = _column(rows, source.image_column, IMAGE_COLUMNS, where, "image")
    labels, listed = _labels(rows, source.label_column, lookup, found.listed, where)
    images = rows.select_columns([image]).cast_column(image, Image(decode=False))
    images = images if image == "image" else images.rename_column(image, "image")
    differs = compare(labels, lookup, listed, class_names, eval_set) if eval_set else []
    return LabelledSet(name, images, labels, found.place, found.split, found.revision, differs)


def _column(rows: Dataset, wanted: str | None, usual: Sequence[str], where: str, kind: str) -> str:
    names = [wanted] if wanted else [name for name in usual if name in rows.column_names]
    if not names or names[0] not in rows.column_names:
        raise ValueError(
            f"data: {where} has no column {wanted or f'of {kind}s'!r}, only {rows.column_names}. Name the right one "
            f"with --{kind}_column."
        )
    return names[0]


def _labels(
    rows: Dataset, wanted: str | None, lookup: ClassLookup, listed: list[str] | None, where: str
) -> tuple[Tensor, list[str] | None]:
    """Labels, and what the data list as classes, of the first usual column that has names."""
    columns = [name for name in LABEL_COLUMNS if name in rows.column_names]
    if wanted or not columns:
        columns = [_column(rows, wanted, LABEL_COLUMNS, where, "label")]
    named = [name for name in columns if _has_names(rows, name, lookup, listed)]
    column = (named or columns)[0]
    feature = _inner(rows.features[column])
    names = feature.names if isinstance(feature, ClassLabel) else listed
    return class_ids(rows[column][:], lookup, names), names


def _has_names(rows: Dataset, column: str, lookup: ClassLookup, listed: list[str] | None) -> bool:
    """Whether a column's labels are names, or numbers with names."""
    feature = _inner(rows.features[column])
    if isinstance(feature, ClassLabel) or listed is not None or "int" not in str(getattr(feature, "dtype", "")):
        return True
    return _are_digits(rows, column, lookup)


def _are_digits(rows: Dataset, column: str, lookup: ClassLookup) -> bool:
    try:
        lookup.find(str(rows[0][column]))
    except ValueError:
        return False
    return True


def _inner(feature: Any) -> Any:
    return _inner(feature.feature) if isinstance(feature, List) else feature


def compare(
    labels: Tensor, lookup: ClassLookup, listed: list[str] | None, class_names: ClassNames, eval_set: EvalSet
) -> list[str]:
    """How a copy differs from the protocol's set, in words; empty where it does not."""
    differs = []
    if len(labels) != eval_set.num_images:
        differs.append(f"{len(labels):,} images, the protocol's test has {eval_set.num_images:,}")
    if eval_set.several_labels and labels.ndim == 1:
        differs.append("one label an image, the protocol has several")
    counts = labels.sum(0) if labels.ndim == 2 else labels.bincount(minlength=lookup.count)
    if absent := [class_names.names[class_names.key][number] for number in (counts == 0).nonzero()[:, 0].tolist()]:
        differs.append(f"no image of {len(absent)} of {lookup.count} classes, such as {absent[0]!r}")
    strangers = [name for name in lookup.find_listed(listed or []) if isinstance(name, str)]
    if strangers:
        differs.append(f"lists classes that the protocol has not, such as {strangers[0]!r}")
    return differs
