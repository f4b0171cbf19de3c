"""Teacher targets that are computed once and stored, so that training runs without the teacher in memory.

A cache has a folder `teacher-REVISION` for each teacher:

    images.json                  key of `images/`: everything that its targets depend on
    images/view-000-00000.safetensors
                                 some rows: feature map on the student's grid and embedding (fp16)
    captions.json                key of `captions/`
    captions/00000.safetensors   some captions in alphabetical order: token states end to end (fp16), the offset of
                                 each caption, embedding (fp16)

Adding a teacher computes only its own targets. A view is a pure function of (seed, row, view number), so student and
teacher encode the same image. Every shard has a checksum. An interrupted run resumes at the first missing shard. The
processes of a run divide the missing shards among them.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm.auto import tqdm

from training.config import AugmentConfig
from training.data import CaptionTokenizer, PairDataset
from training.data.images import Augment, Normalize, Views
from training.data.reader import evenly_spaced_rows
from training.data.sampling import data_loader, num_workers
from training.teachers import DualEncoder
from training.teachers.cached_targets import (
    CAPTIONS_PER_SHARD,
    CachedTargets,
    TargetCacheError,
    caption_file,
    claim,
    save,
    view_file,
)
from training.teachers.dual_encoder import encode_by_length
from training.teachers.targets import TargetSpec, resample_map
from training.text.pipeline import digest, read_pipeline
from training.utils.keys import Digest
from training.utils.output import claim_folder

META_FILES = ("images.json", "captions.json")
FILES = ("images", "captions", *META_FILES)
SHARD_BYTES = 256 * 2**20
GB = 10**9
LENGTH_SAMPLE = 1000  # captions whose length estimates the size of all token states
Item = TypeVar("Item")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherKey:
    """What all targets of a teacher depend on."""

    revision: str
    dtype: str


@dataclass(frozen=True)
class ImageKey:
    """What the targets of images depend on. A run without feature maps has no `grid`, and can use any cache."""

    teacher: TeacherKey
    teacher_image_size: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    images: str
    image_size: int
    squash: bool
    augment: AugmentConfig
    seed: int
    num_views: int
    grid: tuple[int, int] | None


@dataclass(frozen=True)
class CaptionKey:
    """What the targets of captions depend on. A run without token states has no `unaligned`, and can use any cache."""

    teacher: TeacherKey
    tokenizer: str
    captions: str
    max_text_length: int
    cleaning: str | None
    unaligned: str | None


def build_target_cache(
    folder: str | Path,
    teacher: DualEncoder,
    dataset: PairDataset,
    augment: Augment,
    spec: TargetSpec,
    num_views: int,
    max_gb: float = 100.0,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> CachedTargets:
    """Compute the targets that are missing, and open the cache. Every process of a run calls this.

    Args:
        folder: Folder of the cache of all teachers, which all processes share; created if it does not exist.
        teacher: Teacher. Its towers are loaded one at a time, and only if targets are missing.
        dataset: Images and captions, at least those that `spec` needs.
        augment: Augmentation that makes the views.
        spec: Targets that the run needs; the cache may hold more.
        num_views: Number of views of each image.
        max_gb: Largest size of this teacher's targets in GB (10^9 bytes).
        batch_size: Number of images or texts that the teacher encodes at once.
        device: Device of the teacher and of the batches.

    Raises:
        TargetCacheError: The folder holds targets of a different teacher, data set or augmentation, or is damaged; or
            the targets would take more than `max_gb` or than the disk has.
        OSError: The disk is full. Finished shards stay, and the same call resumes there.
    """
    state = PartialState()
    folder = teacher_folder(folder, teacher)
    parts: list[_Images | _Captions] = []
    if "vision" in spec.towers:
        parts.append(_Images(folder, teacher, dataset, augment, spec, num_views))
    if "text" in spec.towers:
        parts.append(_Captions(folder, teacher, dataset, spec))
    claimed: AbstractContextManager[None] = nullcontext()
    is_cache = any((folder / name).is_file() for name in META_FILES)
    if state.is_main_process and (not is_cache or os.access(folder, os.W_OK)):
        claimed = claim_folder(
            folder,
            FILES,
            command="teacher_cache",
            overwrite=is_cache,
            field="teacher_cache",
            flag=None,
            wait=True,
        )
    # runs of several seeds may share the folder: the second one waits, and finds the targets of the first
    with claimed:
        if state.is_main_process:
            for part in parts:
                part.claim()
            _require_space(folder, parts, max_gb)
        state.wait_for_everyone()
        missing: list[list[Any]] = [part.missing() for part in parts]
        state.wait_for_everyone()  # until all have seen the same files
        for part, shards in zip(parts, missing, strict=True):
            if own := shards[state.process_index :: state.num_processes]:
                part.compute(own, batch_size, device)
        state.wait_for_everyone()
    return CachedTargets(folder, spec, device)


def teacher_folder(folder: str | Path, teacher: DualEncoder) -> Path:
    """Folder of one teacher's targets in a cache; no tower needs to be loaded."""
    return Path(folder) / f"teacher-{teacher.revision[:16]}"


def _require_space(folder: Path, parts: Sequence["_Images | _Captions"], max_gb: float):
    """Announce the size of a cache before anything is written, and refuse one that is too large."""
    if not any(part.missing() for part in parts):
        return
    size, free = sum(part.num_bytes() for part in parts) / GB, shutil.disk_usage(folder).free / GB
    log.warning("teacher_cache: %s takes up to %.3g GB; %.3g GB are free", folder, size, free)
    remedy = "lower teacher_views, or leave teacher_cache out to run the teacher at every step"
    if size > max_gb:
        raise TargetCacheError(
            f"teacher_cache: the targets take up to {size:.3g} GB, more than teacher_cache_gb, {max_gb:g}. Raise it, "
            f"{remedy}."
        )
    stored = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / GB
    if size - stored > free:
        raise TargetCacheError(
            f"teacher_cache: the targets take up to {size:.3g} GB, and {folder} has {free:.3g} GB free. Name a folder "
            f"on a different disk, {remedy}."
        )


def _teacher_key(teacher: DualEncoder) -> TeacherKey:
    return TeacherKey(teacher.revision, str(teacher.model.dtype).removeprefix("torch."))


class _Images:
    """The targets of all views of the images."""

    def __init__(
        self,
        folder: Path,
        teacher: DualEncoder,
        dataset: PairDataset,
        augment: Augment,
        spec: TargetSpec,
        num_views: int,
    ):
        self.folder, self.teacher, self.dataset, self.augment = folder, teacher, dataset, augment
        self.grid, self.num_views = spec.grid, num_views
        cells = 0 if spec.grid is None else spec.grid[0] * spec.grid[1]
        width = teacher.projection_dim + (teacher.vision_width * cells if cells else 0)
        self.row_bytes = 2 * width
        self.rows_per_shard = max(1, SHARD_BYTES // self.row_bytes)

    def key(self) -> ImageKey:
        processor, dataset = self.teacher.image_processor, self.dataset
        assert dataset.image_size is not None
        return ImageKey(
            _teacher_key(self.teacher),
            # size and statistics of the teacher's images can change while its weights stay
            teacher_image_size=self.teacher.image_size,
            image_mean=tuple(processor.image_mean),
            image_std=tuple(processor.image_std),
            images=dataset.image_fingerprint(),
            image_size=dataset.image_size,
            squash=dataset.squash,
            augment=self.augment.config,
            seed=self.augment.seed,
            num_views=self.num_views,
            grid=self.grid,
        )

    def claim(self):
        sizes = {"num_rows": len(self.dataset), "rows_per_shard": self.rows_per_shard}
        meta = claim(self.folder / "images.json", self.key(), sizes, optional="grid")
        self.rows_per_shard = meta["rows_per_shard"]

    def num_bytes(self) -> int:
        return self.row_bytes * self.num_views * len(self.dataset)

    def missing(self) -> list[tuple[int, int]]:
        """View and number of each missing shard."""
        numbers = range(-(-len(self.dataset) // self.rows_per_shard))
        shards = [(view, number) for view in range(self.num_views) for number in numbers]
        return [shard for shard in shards if not view_file(self.folder, *shard).exists()]

    def compute(
        self, shards: Sequence[tuple[int, int]], batch_size: int, device: torch.device | str
    ):
        teacher = self.teacher.with_towers(("vision",)).to(device)
        normalize = Normalize.from_processor(teacher.image_processor, teacher.image_size)
        views = _Views(self.dataset, self.augment, list(self._batches(shards, batch_size)))
        # the workers decode the next images meanwhile
        loader = data_loader(views, num_workers(self.dataset.config), batch_size=None)
        with tqdm(total=sum(len(rows) for *_, rows in views.batches), desc="teacher targets",
                  unit="view", disable=not PartialState().is_main_process) as progress:  # fmt: skip
            batches = zip(views.batches, loader, strict=True)
            for shard, group in groupby(batches, key=lambda batch: batch[0][:2]):
                rows = self._rows_of(shard[1])
                tensors: dict[str, Tensor] = {}
                for (*_, chunk), (ids, images, changes) in group:
                    progress.update(len(chunk))
                    if not len(ids):
                        continue
                    images = self.augment(images.to(device), changes.to(device))
                    targets = self._encode(teacher, normalize(images))
                    for name, value in targets.items():  # rows that do not decode stay zero
                        empty = torch.zeros(len(rows), *value.shape[1:], dtype=value.dtype)
                        tensors.setdefault(name, empty)[ids - rows.start] = value
                if not tensors:
                    raise TargetCacheError(
                        f"teacher_cache: none of rows {rows.start} to {rows.stop - 1} of "
                        f"{self.dataset.config.name!r} decodes, so there is nothing to store. Repair the data."
                    )
                save(tensors, view_file(self.folder, *shard))

    def _encode(self, teacher: DualEncoder, pixel_values: Tensor) -> dict[str, Tensor]:
        targets = teacher.image_targets(pixel_values)
        values = {"embedding": targets.embedding.half().cpu()}
        if self.grid is not None:
            # never stored at a finer grid than the teacher's own
            own = targets.required_map.shape[-2:]
            grid = [min(sizes) for sizes in zip(self.grid, own, strict=True)]
            values["feature_map"] = resample_map(targets.required_map, grid).half().cpu()
        return values

    def _rows_of(self, number: int) -> range:
        start = number * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, len(self.dataset)))

    def _batches(
        self, shards: Sequence[tuple[int, int]], batch_size: int
    ) -> Iterator[tuple[int, int, Sequence[int]]]:
        """View, number of the shard and rows of each batch."""
        for view, number in shards:
            for rows in _chunks(self._rows_of(number), batch_size):
                yield view, number, rows


class _Views(torch.utils.data.Dataset):
    """Batches of decoded images with the changes that make a view of each."""

    def __init__(
        self,
        dataset: PairDataset,
        augment: Augment,
        batches: Sequence[tuple[int, int, Sequence[int]]],
    ):
        self.dataset, self.augment, self.batches = dataset, augment, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Views]:
        """Rows (B,) int64 that decode, their images (B, 3, S, S) uint8, and the changes of their views."""
        view, _, rows = self.batches[number]
        images = dict(zip(rows, self.dataset.load_images(rows), strict=True))
        decoded = {row: image for row, image in images.items() if isinstance(image, Tensor)}
        ids = torch.tensor(list(decoded), dtype=torch.long)
        pixels = torch.stack([*decoded.values()]) if decoded else torch.empty(0)
        return ids, pixels, self.augment.views(ids, torch.full_like(ids, view))


class _Captions:
    """The targets of all different captions."""

    def __init__(self, folder: Path, teacher: DualEncoder, dataset: PairDataset, spec: TargetSpec):
        if dataset.tokens is None:
            raise ValueError(
                "teacher_cache: the run needs targets of captions, but the data set has no captions."
            )
        self.folder, self.teacher, self.dataset = folder, teacher, dataset
        self.tokens: CaptionTokenizer = dataset.tokens
        self.token_maps, self.texts = spec.token_maps, list(dataset.captions or ())

    def key(self) -> CaptionKey:
        tokens, tokenizer = self.tokens, self.teacher.tokenizer
        # which can change while the weights stay
        name = digest(read_pipeline(tokenizer)) if tokenizer.is_fast else type(tokenizer).__name__
        unaligned = Digest().add(*sorted(tokens.unaligned or ())).hex()
        return CaptionKey(
            _teacher_key(self.teacher),
            tokenizer=name,
            captions=self.dataset.caption_fingerprint(),
            max_text_length=tokens.max_text_length,
            cleaning=tokens.clean.__name__ if tokens.clean is not None else None,
            unaligned=unaligned if self.token_maps else None,
        )

    def claim(self):
        sizes = {"num_captions": len(self.texts)}
        claim(self.folder / "captions.json", self.key(), sizes, optional="unaligned")

    def num_bytes(self) -> int:
        width = float(self.teacher.projection_dim)
        if self.token_maps:
            some = [self.texts[row] for row in evenly_spaced_rows(len(self.texts), LENGTH_SAMPLE)]
            lengths = self.tokens.tokenize_for_teacher(some)["attention_mask"].sum(1)
            width += self.teacher.text_width * lengths.double().mean().item()
        return round(2 * width * len(self.texts))

    def missing(self) -> list[int]:
        """Number of each missing shard."""
        numbers = range(-(-len(self.texts) // CAPTIONS_PER_SHARD))
        return [number for number in numbers if not caption_file(self.folder, number).exists()]

    def compute(self, shards: Sequence[int], batch_size: int, device: torch.device | str):
        teacher, parts = self.teacher.with_towers(("text",)).to(device), list(self._parts())
        with tqdm(total=sum(len(parts[number]) for number in shards), desc="teacher captions",
                  unit="caption", disable=not PartialState().is_main_process) as progress:  # fmt: skip
            for number in shards:
                save(
                    self._encode(teacher, parts[number], batch_size, device),
                    caption_file(self.folder, number),
                )
                progress.update(len(parts[number]))

    def _parts(self) -> Iterator[Sequence[str]]:
        return _chunks(self.texts, CAPTIONS_PER_SHARD)

    def _encode(
        self,
        teacher: DualEncoder,
        texts: Sequence[str],
        batch_size: int,
        device: torch.device | str,
    ) -> dict[str, Tensor]:
        encoded = self.tokens.tokenize_for_teacher(list(texts))
        mask, lengths = encoded["attention_mask"], encoded["attention_mask"].sum(1)
        unaligned = self.tokens.unaligned or frozenset()
        states: list[Tensor] = [torch.empty(0)] * len(texts)

        def encode(indices: Tensor) -> tuple[Tensor]:
            length = int(lengths[indices[-1]])  # the last text is the longest
            ids = encoded["input_ids"][indices, :length].to(device)
            targets = teacher.text_targets(ids, mask[indices, :length].to(device))
            if self.token_maps:
                maps = targets.required_map.half().cpu()
                for index, tokens in zip(indices.tolist(), maps, strict=True):
                    is_aligned = texts[index] not in unaligned
                    states[index] = tokens[: int(lengths[index]) if is_aligned else 0]
            return (targets.embedding.half().cpu(),)

        (embeddings,) = encode_by_length(lengths, batch_size, encode)
        if not self.token_maps:
            return {"embedding": embeddings}
        start = torch.tensor([0, *map(len, states)]).cumsum(0)
        return {"embedding": embeddings, "states": torch.cat(states), "start": start}


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Split a sequence into consecutive parts of `size` items; the last part may have fewer."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
