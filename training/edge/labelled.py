"""What the gate asks with: labelled images, and the names of their classes in both languages."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, Image
from torch import Tensor
from transformers import ProcessorMixin

from training.data import load_source, open_image, require_columns, sample_rows
from training.evaluation.sets.class_names import ClassNames
from training.text.writing_systems import LANGUAGES

NUM_CALIBRATION = 128


@dataclass(frozen=True)
class Labelled:
    """Labelled sets.

    Args:
        sets: images with labels by name.
        class_names: the candidates, in both languages.
        calibration: images by which int8 ranges are set.
        image_column: column of the images.
        label_column: column of the label's name.
        source: what results say of the data.
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
                    f"{language!r}. The gate asks in both languages: add the names in {language!r} to each class."
                )
        for name, rows in self.sets.items():
            remedy = "Name the right one with --image_column or --label_column."
            require_columns(rows, (self.image_column, self.label_column), name, remedy)
            self.label_ids(name)  # a wrong label is said before the work

    @classmethod
    def embedded(cls) -> "Labelled":
        """The embedded corpus: images held out of all training, among the names of all concepts."""
        from training.evaluation.sets.embedded import HeldOut  # only here, so that other data need no drawings

        held_out = HeldOut.open()
        train = load_source(str(held_out.corpus / "train.parquet"))
        return cls(held_out.sets, held_out.class_names, train, "image", "label", held_out.corpus.name)

    @classmethod
    def read(
        cls, source: str, class_names: str, split: str, image_column: str, label_column: str, label_language: str
    ) -> "Labelled":
        """A labelled set of one's own; its own images, without their labels, also set the int8 ranges."""
        rows = load_source(source, split)
        names = ClassNames.read(class_names, label_language)
        return cls({Path(source).stem: rows}, names, rows, image_column, label_column, source)

    def label_ids(self, name: str) -> Tensor:
        """The class numbers (N,) of a set's images."""
        return self.class_names.label_ids(self.sets[name][self.label_column])

    def calibration_images(self, processor: ProcessorMixin) -> Iterator[np.ndarray]:
        """A hundred or so, prepared, (1, 3, S, S) float32, evenly spaced over the set."""
        rows = self.calibration.select(sample_rows(len(self.calibration), NUM_CALIBRATION))
        for row in rows.cast_column(self.image_column, Image(decode=False)):
            image = open_image(row[self.image_column])
            yield processor.image_processor([image], return_tensors="np")["pixel_values"]
