"""Data of the accuracy gate: labelled images, and the names of their classes in both languages."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, Image
from torch import Tensor
from transformers import ProcessorMixin

from training.data import (
    evenly_spaced_rows,
    load_source,
    open_image,
    require_allowed,
    require_columns,
    rules_for,
)
from training.edge.options import ExportOptions
from training.evaluation.sets.class_names import ClassNames
from training.text.writing_systems import LANGUAGES

NUM_CALIBRATION = 128


@dataclass(frozen=True)
class GateData:
    """Labelled sets with class names and calibration images.

    Args:
        sets: Labelled images by name of the set.
        class_names: Names of the classes in both languages.
        calibration: Images that set the int8 ranges.
        image_column: Column of the images.
        label_column: Column of the class names.
        source: Description of the data in results.
    """

    sets: dict[str, Dataset]
    class_names: ClassNames
    calibration: Dataset
    image_column: str
    label_column: str
    source: str

    def __post_init__(self):
        for language in LANGUAGES:
            if language not in self.class_names.names:
                raise ValueError(
                    f"class_names: the labelled set has names in {sorted(self.class_names.names)}, none in "
                    f"{language!r}. The gate checks both languages: add names in {language!r} to each class."
                )
        for name, rows in self.sets.items():
            remedy = "Name the right one with --image_column or --label_column."
            require_columns(rows, (self.image_column, self.label_column), name, remedy)
            self.label_ids(name)  # an unknown label is reported before the export starts

    @classmethod
    def from_options(cls, options: ExportOptions) -> "GateData":
        """The labelled set that the options name, or the embedded corpus.

        Raises:
            ValueError: Only one of `data` and `class_names` is given, or the labelled set does not match them.
        """
        if options.data is None:
            for name in ("class_names", "calibration"):
                if (value := getattr(options, name)) is not None:
                    raise ValueError(f"{name}: {value!r} is given without data. Name a labelled set.")
            return cls.embedded()
        if options.class_names is None:
            raise ValueError(f"data: {options.data!r} needs class_names, the names of its classes in both languages.")
        rows = _load(options.data, options, "data")
        names = ClassNames.read(options.class_names, options.label_language)
        sets = {Path(options.data).stem: rows}
        calibration = rows
        if options.calibration is not None:
            calibration = _load(options.calibration, options, "calibration")
        return cls(sets, names, calibration, options.image_column, options.label_column, options.data)

    @classmethod
    def embedded(cls) -> "GateData":
        """The embedded corpus: images held out from training, and the names of all concepts."""
        # not at the top, so that other data do not need the packages of the embedded corpus
        from training.evaluation.sets.held_out import HeldOut

        held_out = HeldOut.open()
        train = load_source(str(held_out.corpus / "train.parquet"))
        return cls(held_out.sets, held_out.class_names, train, "image", "label", held_out.corpus.name)

    def label_ids(self, name: str) -> Tensor:
        """Class ids of a set's images, (N,)."""
        return self.class_names.label_ids(self.sets[name][self.label_column])

    def calibration_images(self, processor: ProcessorMixin) -> Iterator[np.ndarray]:
        """Up to `NUM_CALIBRATION` prepared images, evenly spaced over the calibration set: (1, 3, S, S) float32."""
        rows = self.calibration.select(evenly_spaced_rows(len(self.calibration), NUM_CALIBRATION))
        for row in rows.cast_column(self.image_column, Image(decode=False)):
            image = open_image(row[self.image_column])
            yield processor.image_processor([image], return_tensors="np")["pixel_values"]


def _load(source: str, options: ExportOptions, field: str) -> Dataset:
    """Load rows whose images may be opened."""
    rows = load_source(source, options.split)
    require_columns(rows, (options.image_column,), source, "Name the right one with --image_column.", field)
    rules = rules_for(source, options.allow_urls, options.allow_paths)
    return require_allowed(rows, options.image_column, rules, source, field)
