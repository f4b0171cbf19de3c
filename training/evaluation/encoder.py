"""A model with the embeddings of images and texts that it has computed, by one process or several."""

import copy
from collections.abc import Callable, Hashable
from pathlib import Path

import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor
from transformers import CONFIG_NAME

from training.evaluation.classify import class_embeddings
from training.evaluation.retrieval import RetrievalSet
from training.evaluation.sets.labelled_sets import LabelledSet
from training.evaluation.sets.templates import Templates
from training.teachers import DualEncoder
from training.teachers.lineage import digest_folder


class Encoder:
    """A model that computes each embedding once. After `release`, only the embeddings computed before are available.

    With several processes, each computes its share, and all of them get all embeddings.

    Args:
        model: Model on the device where it runs.
        state: State of this process among the others.
        name: Name written to results.
    """

    def __init__(self, model: DualEncoder, state: PartialState, name: str):
        self.name, self.state = name, state
        self._model: DualEncoder | None = model
        self._source = model.name
        self._teacher: str | None = getattr(getattr(model.model, "config", None), "teacher", None)
        self._rotation: Tensor | None = getattr(model.model, "rotation", None)
        self._width: int | None = None  # None for all dimensions
        self._unrotated = False
        self._computed: dict[Hashable, Tensor] = {}

    def release(self):
        """Drop the model, so that its memory can be freed."""
        self._model = None

    def truncated(self, width: int) -> "Encoder":
        """The same model with the leading `width` dimensions of its embeddings.

        Class embeddings are truncated after the mean over prompt templates.
        """
        encoder = copy.copy(self)
        encoder.name, encoder._width = f"{self.name}, {width} dimensions", width
        return encoder

    def comparable_with(self, other: "Encoder") -> "Encoder":
        """The same model in a space where it can be compared with a teacher, a student or another student of its
        teacher: its teacher's space, or its own if it is the teacher of the other model.
        """
        if self._taught(
            other
        ):  # the teacher's own rotation leads away from the space that the student has learned
            return self
        encoder = copy.copy(self)
        encoder._unrotated = True
        return encoder

    def _taught(self, student: "Encoder") -> bool:
        """Whether this is the teacher of a student: by weights, or by name where the teacher's folder is not here."""
        teacher = student._teacher
        if teacher is None or teacher == self._teacher:  # two students of one teacher
            return False
        if Path(teacher, CONFIG_NAME).is_file() and Path(self._source).is_dir():
            return digest_folder(teacher) == digest_folder(self._source)
        return Path(teacher).name == Path(self._source).name

    def images(self, dataset: LabelledSet | RetrievalSet, squashed: bool | None = None) -> Tensor:
        """Embeddings of the images of a set, (N, D) float32, L2-normalised.

        Args:
            dataset: Set with images.
            squashed: Whether images are resized to a square without a crop. Default: as the model's image processor
                does.

        Raises:
            ValueError: An image cannot be decoded.
        """

        def compute(model: DualEncoder, start: int, stop: int) -> Tensor:
            rows = dataset.rows.select(range(start, stop))
            try:
                return model.encode_images(rows, "image", squash=squashed)
            except ValueError as error:
                raise ValueError(
                    f"data: {dataset.name} ({dataset.source}), from row {start}: {error}"
                ) from error

        return self._get((type(dataset), dataset.name, squashed), len(dataset.rows), compute)

    def classes(self, names: list[str], templates: Templates) -> Tensor:
        """Embeddings of classes by name, (C, D) float32, L2-normalised."""

        def compute(model: DualEncoder, start: int, stop: int) -> Tensor:
            return class_embeddings(model, names[start:stop], templates.lines)

        return self._get((tuple(names), templates.lines), len(names), compute)

    def texts(self, texts: list[str]) -> Tensor:
        """Embeddings of texts, (T, D) float32, L2-normalised."""
        return self._get(
            tuple(texts),
            len(texts),
            lambda model, start, stop: model.encode_texts(texts[start:stop]),
        )

    def _get(
        self, key: Hashable, count: int, compute: Callable[[DualEncoder, int, int], Tensor]
    ) -> Tensor:
        if key not in self._computed:
            assert self._model is not None  # all embeddings are computed before the release
            share = -(-count // self.state.num_processes)
            start = min(
                self.state.process_index * share, count - 1
            )  # surplus processes repeat the last embedding
            own = compute(self._model, start, min(start + share, count))
            if self.state.num_processes > 1:
                padded = own.new_zeros(share, own.shape[1])
                padded[: len(own)] = own
                own = gather(padded.to(self.state.device).contiguous())[:count].cpu()
            self._computed[key] = own
        return self._leading(self._computed[key])

    def _leading(self, embeddings: Tensor) -> Tensor:
        """Embeddings in the requested space, truncated to the requested width and normalised again."""
        if self._unrotated and self._rotation is not None:
            if embeddings.shape[1] < len(self._rotation):
                raise ValueError(
                    f"text_model: {self.name!r} has the leading {embeddings.shape[1]} of {len(self._rotation)} "
                    "dimensions alone, so its space cannot be rotated to its teacher's. Remove truncate_dim from "
                    "its config.json."
                )
            embeddings = embeddings @ self._rotation.cpu().T
        if self._width is None:
            return embeddings
        if self._width > embeddings.shape[1]:
            raise ValueError(
                f"widths: {self._width} is more than the {embeddings.shape[1]} dimensions of the model. Leave it out."
            )
        return F.normalize(embeddings[:, : self._width], dim=-1)
