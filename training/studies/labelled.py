"""Labelled photographs on which studies measure zero-shot classification."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from training.data import evenly_spaced_rows
from training.evaluation.classify import class_embeddings
from training.evaluation.measure import measure
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.protocols import CLASS_NAMES
from training.studies.rows import CAPTIONED, open_rows
from training.text.writing_systems import LANGUAGES
from training.utils.results import Row

LABELLED, TOP1 = "labelled photographs", "top1"


@dataclass(frozen=True)
class LabelledPhotographs:
    """Photographs with class names.

    Args:
        rows: Rows with the columns `image` and `label`.
        classes: All labels in ascending order; they need not be numbered from 0, or without gaps.
        names: Class names in each language, in the order of `classes`.
    """

    rows: Dataset
    classes: list[int]
    names: dict[str, list[str]]

    @classmethod
    def open(cls, source: str, number: int) -> "LabelledPhotographs":
        """Open a source; its classes are those of all its rows.

        Args:
            source: Data with the columns `image`, `label`, `en` and `zh`.
            number: Largest number of photographs, evenly spaced.

        Raises:
            ValueError: The data cannot be opened, or a column is missing.
        """
        rows = open_rows(source, [*CAPTIONED, "label"], "labelled")
        names = {
            language: [name for _, name in sorted(dict(zip(rows["label"], rows[language], strict=True)).items())]
            for language in LANGUAGES
        }
        return cls(rows.select(evenly_spaced_rows(len(rows), number)), sorted(set(rows["label"])), names)

    @cached_property
    def positions(self) -> Tensor:
        """Position of each photograph's class in `classes`, (N,) int64."""
        return torch.tensor([self.classes.index(label) for label in self.rows["label"]])

    def measure(
        self, model: ZeroShotModel, name: str, stage: str | None = None, seed: int | None = None
    ) -> Iterator[Row]:
        """Measure top-1 accuracy in each language.

        Args:
            model: Model to measure.
            name: Model name, written to the rows.
            stage: Training stage, written to the rows.
            seed: Seed of the training run, written to the rows.

        Yields:
            A row for each language.
        """
        images = model.encode_images(self.rows)
        for language, names in self.names.items():
            fields = {"model": name, "stage": stage, "seed": seed, "protocol": CLASS_NAMES, "language": language}
            yield from self.score(model, images, names, **fields)

    def score(self, encoder: ZeroShotModel, images: Tensor, names: Sequence[str], **fields: Any) -> list[Row]:
        """Top-1 accuracy with names of the classes.

        Args:
            encoder: Model to measure.
            images: Its embeddings of the photographs, (N, D), L2-normalised.
            names: Names of `classes`, in their order.
            fields: Other fields of `Row`, such as `model` and `language`.
        """
        measured = measure(images, class_embeddings(encoder, names), self.positions, (TOP1,))
        return measured.rows(set=LABELLED, **fields)
