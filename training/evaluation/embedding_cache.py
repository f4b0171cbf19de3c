"""What a model makes of images and class names, computed once, by one process or several, and kept by content."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather, parse_flag_from_env
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.evaluation.classify import class_embeddings
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.labelled_sets import LabelledSet
from training.evaluation.sets.pairs import PairSet
from training.evaluation.sets.templates import Templates
from training.utils.files import atomic_write

VERSION = 1  # raised when the same key would stand for other numbers


def find_processes() -> PartialState:
    """This process among those that `accelerate launch` or `torchrun` started."""
    # without the flag, processes on a machine without an accelerator would know nothing of each other
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


class EmbeddingCache:
    """A folder of embeddings. A key is made of everything that decides a number, so that nothing in it gets stale.

    With several processes each computes its share, the first one keeps the whole and is the only one that gets it.

    Args:
        folder: where they are kept.
        state: this process among the others.
    """

    def __init__(self, folder: str | Path, state: PartialState):
        self.folder = Path(folder)
        self.state = state

    def get(self, kind: str, key: Sequence[str], count: int, compute: Callable[[int, int], Tensor]) -> Tensor | None:
        """Kept embeddings, or those that are computed now.

        Args:
            kind: subfolder.
            key: everything that decides them.
            count: how many there are.
            compute: gives those from a start to a stop.

        Returns:
            (count, D) in the first process, None in the others.
        """
        path = self.folder / kind / f"{hashlib.sha256(json.dumps([VERSION, *key]).encode()).hexdigest()[:24]}"
        path = path.with_suffix(".safetensors")
        kept = self._read(path, count) if self.state.is_main_process else None
        if self._agree(kept is not None):
            return kept
        embeddings = self._compute(count, compute)
        if not self.state.is_main_process:
            return None
        with atomic_write(path) as scratch:
            save_file({"embeddings": embeddings}, scratch)
        return embeddings

    def _read(self, path: Path, count: int) -> Tensor | None:
        try:
            embeddings = load_file(path)["embeddings"]
        except (OSError, SafetensorError, KeyError):  # not there, or damaged: computed anew
            return None
        return embeddings if len(embeddings) == count else None

    def _agree(self, found: bool) -> bool:
        """What the first process found."""
        if self.state.num_processes == 1:
            return found
        return bool(broadcast(torch.tensor([int(found)], device=self.state.device)).item())

    def _compute(self, count: int, compute: Callable[[int, int], Tensor]) -> Tensor:
        if self.state.num_processes == 1:
            return compute(0, count)
        share = -(-count // self.state.num_processes)
        start = min(self.state.process_index * share, count - 1)  # one of too many processes repeats the last
        own = compute(start, min(start + share, count))
        padded = own.new_zeros(share, own.shape[1])
        padded[: len(own)] = own
        return gather(padded.to(self.state.device).contiguous())[:count].cpu()


class Encoder:
    """A model that encodes through the cache; it can be let go of while what it has encoded stays within reach.

    Args:
        model: on the device where it is to run.
        cache: the folder.
        name: shown in results; default: the model's own.
    """

    def __init__(self, model: ZeroShotModel, cache: EmbeddingCache, name: str | None = None):
        self.name = name or model.name
        self.fingerprint = model.fingerprint
        self.cache = cache
        self._model: ZeroShotModel | None = model

    def release(self):
        """Let go of the model: from now on there is what was encoded before."""
        self._model = None

    def images(self, labelled: LabelledSet | PairSet, squashed: bool = False) -> Tensor | None:
        """(N, D) L2-normalised; None in all processes but the first.

        Raises:
            ValueError: an image does not decode.
        """

        def compute(start: int, stop: int) -> Tensor:
            rows = labelled.rows.select(range(start, stop))
            try:
                return self._loaded().encode_images(rows, "image", squash=squashed)
            except ValueError as error:
                raise ValueError(f"data: {labelled.name} ({labelled.source}), from row {start}: {error}") from error

        digest = labelled.digest if self.cache.state.is_main_process else ""
        key = [self.fingerprint, digest, "squashed" if squashed else "cropped"]
        return self.cache.get("images", key, len(labelled.rows), compute)

    def classes(self, names: list[str], templates: Templates) -> Tensor | None:
        """(classes, D) L2-normalised; None in all processes but the first."""

        def compute(start: int, stop: int) -> Tensor:
            return class_embeddings(self._loaded(), names[start:stop], templates.lines)

        key = [self.fingerprint, *names, "", *templates.lines]
        return self.cache.get("classes", key, len(names), compute)

    def texts(self, texts: list[str]) -> Tensor | None:
        """(texts, D) L2-normalised; None in all processes but the first."""

        def compute(start: int, stop: int) -> Tensor:
            return self._loaded().encode_texts(texts[start:stop])

        return self.cache.get("texts", [self.fingerprint, *texts], len(texts), compute)

    def _loaded(self) -> ZeroShotModel:
        if self._model is None:
            raise ValueError(
                f"cache: what {self.name!r} had encoded is gone. Run again with a --cache_dir that stays."
            )
        return self._model
