"""Embeddings of images and texts, computed once, by one process or several, and cached by content."""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import broadcast, gather, parse_flag_from_env
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CONFIG_NAME

from training.evaluation.classify import class_embeddings
from training.evaluation.retrieval import RetrievalSet
from training.evaluation.sets.labelled_sets import LabelledSet
from training.evaluation.sets.templates import Templates
from training.evaluation.zero_shot_model import ZeroShotModel
from training.teachers.lineage import digest_folder
from training.utils.files import atomic_write
from training.utils.process import use_cpu_fully

VERSION = 1  # increase it when the same key would belong to other numbers


def find_processes() -> PartialState:
    """Join the processes of `accelerate launch` or `torchrun`, and use the CPU fully."""
    use_cpu_fully()
    # without this flag, processes on a machine without an accelerator do not form a group
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


class EmbeddingCache:
    """A folder of embeddings. A key contains everything that the embeddings depend on, so that none becomes stale.

    With several processes, each computes its share; only the first process stores and returns the embeddings.

    Args:
        folder: Folder of the files.
        state: State of this process among the others.
    """

    def __init__(self, folder: str | Path, state: PartialState):
        self.folder = Path(folder)
        self.state = state

    def get(self, kind: str, key: Sequence[str], count: int, compute: Callable[[int, int], Tensor]) -> Tensor | None:
        """Load embeddings, or compute and store them.

        Args:
            kind: Name of the subfolder.
            key: Everything that the embeddings depend on.
            count: Number of embeddings, N.
            compute: Function that computes the embeddings from a start to a stop index, (stop - start, D).

        Returns:
            (N, D) in the first process, None in all others.
        """
        path = self.folder / kind / f"{hashlib.sha256(json.dumps([VERSION, *key]).encode()).hexdigest()[:24]}"
        path = path.with_suffix(".safetensors")
        cached = self._load(path, count) if self.state.is_main_process else None
        found = cached is not None
        if self.state.num_processes > 1:
            found = bool(broadcast(torch.tensor([int(found)], device=self.state.device)).item())
        if found:
            return cached
        embeddings = self._compute(count, compute)
        if not self.state.is_main_process:
            return None
        with atomic_write(path) as scratch:
            save_file({"embeddings": embeddings}, scratch)
        return embeddings

    def _load(self, path: Path, count: int) -> Tensor | None:
        try:
            embeddings = load_file(path)["embeddings"]
        except (OSError, SafetensorError, KeyError):  # missing or damaged: computed again
            return None
        return embeddings if len(embeddings) == count else None

    def _compute(self, count: int, compute: Callable[[int, int], Tensor]) -> Tensor:
        if self.state.num_processes == 1:
            return compute(0, count)
        share = -(-count // self.state.num_processes)
        start = min(self.state.process_index * share, count - 1)  # surplus processes repeat the last embedding
        own = compute(start, min(start + share, count))
        padded = own.new_zeros(share, own.shape[1])
        padded[: len(own)] = own
        return gather(padded.to(self.state.device).contiguous())[:count].cpu()


class CachedEncoder:
    """A model whose embeddings are cached. After `release`, embeddings come from the cache alone.

    Args:
        model: Model on the device where it runs.
        cache: Cache of its embeddings.
        name: Name written to results. Default: the name of the model.
    """

    def __init__(self, model: ZeroShotModel, cache: EmbeddingCache, name: str | None = None):
        self.name = name or model.name
        self.fingerprint = model.fingerprint
        self.cache = cache
        self._model: ZeroShotModel | None = model
        self._squashes = model.images.squashes
        self._source = model.name
        self._teacher: str | None = getattr(getattr(model.model, "config", None), "teacher", None)
        self._rotation: Tensor | None = getattr(model.model, "rotation", None)
        self._width: int | None = None  # None for all dimensions
        self._unrotated = False

    def release(self):
        """Drop the model, so that its memory can be freed; cached embeddings remain available."""
        self._model = None

    def truncated(self, width: int) -> "CachedEncoder":
        """The same model with the leading `width` dimensions of its embeddings.

        Class embeddings are truncated after the mean over prompt templates.
        """
        encoder = copy.copy(self)
        encoder.name, encoder._width = f"{self.name}, {width} dimensions", width
        return encoder

    def comparable_with(self, other: "CachedEncoder") -> "CachedEncoder":
        """The same model in a space where it can be compared with a teacher, a student or another student of its
        teacher: its teacher's space, or its own if it is the teacher of the other model.
        """
        if self._taught(other):  # the teacher's own rotation leads away from the space that the student has learned
            return self
        encoder = copy.copy(self)
        encoder._unrotated = True
        return encoder

    def _taught(self, student: "CachedEncoder") -> bool:
        """Whether this is the teacher of a student: by weights, or by name where the teacher's folder is not here."""
        teacher = student._teacher
        if teacher is None or teacher == self._teacher:  # two students of one teacher
            return False
        if Path(teacher, CONFIG_NAME).is_file() and Path(self._source).is_dir():
            return digest_folder(teacher) == digest_folder(self._source)
        return Path(teacher).name == Path(self._source).name

    def images(self, dataset: LabelledSet | RetrievalSet, squashed: bool | None = None) -> Tensor | None:
        """Embeddings of the images of a set.

        Args:
            dataset: Set with images.
            squashed: Whether images are resized to a square without a crop. Default: as the model's image processor
                does.

        Returns:
            (N, D) float32, L2-normalised, in the first process; None in all others.

        Raises:
            ValueError: An image cannot be decoded.
        """

        def compute(start: int, stop: int) -> Tensor:
            rows = dataset.rows.select(range(start, stop))
            try:
                return self._loaded().encode_images(rows, "image", squash=squashed)
            except ValueError as error:
                raise ValueError(f"data: {dataset.name} ({dataset.source}), from row {start}: {error}") from error

        squashed = self._squashes if squashed is None else squashed
        digest = dataset.digest if self.cache.state.is_main_process else ""
        key = [self.fingerprint, digest, "squashed" if squashed else "cropped"]
        return self._leading(self.cache.get("images", key, len(dataset.rows), compute))

    def classes(self, names: list[str], templates: Templates) -> Tensor | None:
        """Embeddings of classes by name, (C, D) float32, L2-normalised, in the first process; None in all others."""

        def compute(start: int, stop: int) -> Tensor:
            return class_embeddings(self._loaded(), names[start:stop], templates.lines)

        key = [self.fingerprint, *names, "", *templates.lines]
        return self._leading(self.cache.get("classes", key, len(names), compute))

    def texts(self, texts: list[str]) -> Tensor | None:
        """Embeddings of texts, (T, D) float32, L2-normalised, in the first process; None in all others."""

        def compute(start: int, stop: int) -> Tensor:
            return self._loaded().encode_texts(texts[start:stop])

        return self._leading(self.cache.get("texts", [self.fingerprint, *texts], len(texts), compute))

    def _leading(self, embeddings: Tensor | None) -> Tensor | None:
        """Embeddings in the requested space, truncated to the requested width and normalised again."""
        if embeddings is not None and self._unrotated and self._rotation is not None:
            if embeddings.shape[1] < len(self._rotation):
                raise ValueError(
                    f"text_model: {self.name!r} has the leading {embeddings.shape[1]} of {len(self._rotation)} "
                    "dimensions alone, so its space cannot be rotated to its teacher's. Remove truncate_dim from "
                    "its config.json."
                )
            embeddings = embeddings @ self._rotation.cpu().T
        if embeddings is None or self._width is None:
            return embeddings
        if self._width > embeddings.shape[1]:
            raise ValueError(
                f"widths: {self._width} is more than the {embeddings.shape[1]} dimensions of the model. Leave it out."
            )
        return F.normalize(embeddings[:, : self._width], dim=-1)

    def _loaded(self) -> ZeroShotModel:
        if self._model is None:
            raise ValueError(
                f"cache: embeddings of {self.name!r} are missing. Run again with a --cache_dir that no other process "
                "clears."
            )
        return self._model
