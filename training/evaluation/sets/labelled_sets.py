"""Labelled images of a test set, compared with the set of the protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datasets import ClassLabel, Dataset, List
from torch import Tensor

from training.data import require_allowed, rules_for
from training.evaluation.models.image_loading import digest_images
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labels import ClassLookup, class_ids
from training.evaluation.sets.protocols import EvalSet
from training.evaluation.sets.sources import Source, read_source

IMAGE_COLUMNS = ("image", "img", "image", "webp", "png", "jpg", "jpeg", "jpg;png;webp;jpeg")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls", "npy", "name", "en")


@dataclass(frozen=True)
class LabelledSet:
    """A test set with class indices as labels.

    Args:
        name: Id of the set.
        rows: Rows with one column, `image`, of undecoded images.
        labels: Class indices, (N,) int64, or (N, C) int8 with 1 where the image has the label.
        source: Location that the rows were loaded from.
        split: Split of the source; None if it has no splits.
        revision: Commit of a data set on the Hub; None for other sources, whose versions `digest` identifies.
        differences: Differences from the set of the protocol, in words.
    """

    name: str
    rows: Dataset
    labels: Tensor
    source: str
    split: str | None
    revision: str | None
    differences: list[str]

    @cached_property
    def digest(self) -> str:
        """Digest of all encoded images in their order, which cached embeddings are keyed by."""
        return digest_images(self.rows)


def open_set(name: str, source: Source, class_names: ClassNames, eval_set: EvalSet | None = None) -> LabelledSet:
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
    loaded = read_source(name, source, eval_set)
    rows, context = loaded.rows, f"{name} ({loaded.location})"
    if not len(rows):
        raise ValueError(f"data: {context} has no images. Give a folder with one folder per class, or a parquet file.")
    lookup = ClassLookup(class_names, eval_set.aliases if eval_set else {}, context)
    image = _find_column(rows, source.image_column, IMAGE_COLUMNS, context, "image")
    labels, listed = _labels(rows, source.label_column, lookup, loaded.listed, context)
    if labels.ndim == 2 and (labels.sum(1) == 1).all() and not (eval_set and eval_set.several_labels):
        labels = labels.argmax(1)  # lists of one label each
    rules = rules_for(loaded.location, source.allow_urls, source.allow_paths or loaded.is_listing)
    images = require_allowed(rows.select_columns([image]), image, rules, context)
    images = images if image == "image" else images.rename_column(image, "image")
    differences = find_differences(labels, lookup, listed, class_names, eval_set) if eval_set else []
    return LabelledSet(name, images, labels, loaded.location, loaded.split, loaded.revision, differences)


def _find_column(rows: Dataset, column: str | None, usual: Sequence[str], context: str, kind: str) -> str:
    names = [column] if column else [name for name in usual if name in rows.column_names]
    if not names or names[0] not in rows.column_names:
        missing = repr(column) if column else f"of {kind}s"
        raise ValueError(
            f"data: {context} has no column {missing}, only {rows.column_names}. Name the right one "
            f"with --{kind}_column."
        )
    return names[0]


def _labels(
    rows: Dataset, column: str | None, lookup: ClassLookup, listed: list[str] | None, context: str
) -> tuple[Tensor, list[str] | None]:
    """Labels and the class list of the data, from the given column or the first usual column that has names."""
    columns = [name for name in LABEL_COLUMNS if name in rows.column_names]
    if column or not columns:
        columns = [_find_column(rows, column, LABEL_COLUMNS, context, "label")]
    named = [name for name in columns if _has_names(rows, name, lookup, listed)]
    chosen = (named or columns)[0]
    feature = _inner(rows.features[chosen])
    names = feature.names if isinstance(feature, ClassLabel) else listed
    return class_ids(rows[chosen][:], lookup, names), names


def _has_names(rows: Dataset, column: str, lookup: ClassLookup, listed: list[str] | None) -> bool:
    """Whether the labels of a column are names, or numbers with names."""
    feature = _inner(rows.features[column])
    if isinstance(feature, ClassLabel) or listed is not None or "int" not in str(getattr(feature, "dtype", "")):
        return True
    return _are_digit_names(rows, column, lookup)


def _are_digit_names(rows: Dataset, column: str, lookup: ClassLookup) -> bool:
    """Whether numbers are themselves class names, such as those of MNIST."""
    try:
        lookup.find(str(rows[0][column]))
    except ValueError:
        return False
    return True


def _inner(feature: Any) -> Any:
    return _inner(feature.feature) if isinstance(feature, List) else feature


def find_differences(
    labels: Tensor, lookup: ClassLookup, listed: list[str] | None, class_names: ClassNames, eval_set: EvalSet
) -> list[str]:
    """Differences between a set and that of the protocol, in words.

    Args:
        labels: Labels as `class_ids` returns them.
        lookup: Classes of the protocol.
        listed: Class names that the data list; None if they list none.
        class_names: Names of the classes of the protocol.
        eval_set: Entry of the protocol.
    """
    differences = []
    if len(labels) != eval_set.num_images:
        differences.append(f"{len(labels):,} images, the protocol's test has {eval_set.num_images:,}")
    if eval_set.several_labels and labels.ndim == 1:
        differences.append("one label per image, the protocol has several")
    if labels.ndim == 2 and not eval_set.several_labels:
        differences.append("several labels per image, the protocol has one")
    counts = labels.sum(0) if labels.ndim == 2 else labels.bincount(minlength=lookup.count)
    if absent := [class_names.names[class_names.key][number] for number in (counts == 0).nonzero()[:, 0].tolist()]:
        differences.append(f"no image of {len(absent)} of {lookup.count} classes, such as {absent[0]!r}")
    unknown = [name for name in lookup.find_listed(listed or []) if isinstance(name, str)]
    if unknown:
        differences.append(f"lists classes that are not in the protocol, such as {unknown[0]!r}")
    return differences
