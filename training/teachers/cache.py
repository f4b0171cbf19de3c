"""Teacher targets that are computed once and stored, so that training runs without the teacher in memory.

A cache is a folder of one teacher's targets:

    images.json                  key of `images/`: everything that its targets depend on
    images/view-000-00000.safetensors
                                 some rows: feature map on the student's grid and embedding (fp16)
    captions.json                key of `captions/`
    captions/00000.safetensors   some captions in the order of their ids: token states end to end (fp16), the offset
                                 of each caption, embedding (fp16)

A view is a pure function of (seed, row, view number), so student and
teacher encode the same image. Every shard has a checksum. An interrupted run resumes at the first missing shard. The
processes of a run divide the missing shards among them.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm.auto import tqdm

from training.config import AugmentConfig
from training.data import CaptionTokenizer, PairDataset
from training.data.images import Augment, Normalize, Views
from training.data.reader import evenly_spaced_rows
from training.data.sampling import data_loader, image_bytes, num_workers
from training.teachers import DualEncoder
from training.teachers.cached_targets import (
    CAPTIONS_PER_SHARD,
    ROWS_PER_SHARD,
    CachedTargets,
    TargetCacheError,
    claim,
    lacks,
    save,
)
from training.teachers.targets import TargetSpec, encode_by_length, resample_map
from training.text.pipeline import digest, read_pipeline
from training.utils.keys import Digest
from training.utils.output import claim_folder
from training.utils.process import at_own_pace

META_FILES = ("images.json", "captions.json")
FILES = ("images", "captions", *META_FILES)
GB = 10**9
# images or texts that a teacher encodes at once
CPU_BATCH = 64
GPU_BATCH = 256
LENGTH_SAMPLE = 1000  # captions whose length estimates the size of all token states

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
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
) -> CachedTargets:
    """Compute the targets that are missing, and open the cache. Every process of a run calls this.

    Args:
        folder: Folder of the cache, which all processes share; created if it does not exist.
        teacher: Teacher. Its towers are loaded one at a time, and only if targets are missing.
        dataset: Images and captions, at least those that `spec` needs.
        augment: Augmentation that makes the views.
        spec: Targets that the run needs; the cache may hold more.
        num_views: Number of views of each image.
        batch_size: Number of images or texts that the teacher encodes at once. Default: chosen for the device.
        device: Device of the teacher and of the batches.

    Raises:
        TargetCacheError: The folder holds targets of a different teacher, data set or augmentation, or is damaged; or
            the disk has too little space.
        OSError: The disk is full. Finished shards stay, and the same call resumes there.
    """
    state = PartialState()
    if batch_size is None:
        batch_size = CPU_BATCH if torch.device(device).type == "cpu" else GPU_BATCH
    folder = Path(folder)
    images = captions = None
    if "vision" in spec.towers:
        images = _Images(folder, teacher, dataset, augment, spec, num_views)
    if "text" in spec.towers:
        captions = _Captions(folder, teacher, dataset, spec)
    parts = [part for part in (images, captions) if part is not None]
    is_cache = any((folder / name).is_file() for name in META_FILES)
    with ExitStack() as claimed:
        with at_own_pace():
            # runs of several seeds may share the folder: the second one waits, and finds the targets of the first
            if state.is_main_process and (not is_cache or os.access(folder, os.W_OK)):
                options: Any = {"field": "teacher_cache", "flag": None, "wait": True}
                claimed.enter_context(
                    claim_folder(
                        folder, FILES, command="teacher_cache", overwrite=is_cache, **options
                    )
                )
            if state.is_main_process:
                if images is not None:
                    claim(folder / "images.json", images.key(), optional="grid")
                if captions is not None:
                    claim(folder / "captions.json", captions.key(), optional="unaligned")
                _require_space(folder, parts)
        missing = [[path for path in part.shards if lacks(path, part.needed)] for part in parts]
        state.wait_for_everyone()  # until all have seen the same files
        with at_own_pace():
            for part, paths in zip(parts, missing, strict=True):
                if own := paths[state.process_index :: state.num_processes]:
                    part.compute(own, batch_size, device)
    image_shards = [] if images is None else list(images.shards)
    caption_shards = [] if captions is None else list(captions.shards)
    return CachedTargets(spec, image_shards, caption_shards, num_views, device)


def _require_space(folder: Path, parts: Sequence["_Images | _Captions"]):
    """Announce the size of a cache before anything is written, and refuse one that the disk has no space for."""
    paths = [path for part in parts for path in part.shards]
    stored = [path.stat().st_size for path in paths if path.exists()]
    if len(stored) == len(paths):
        return
    size = sum(part.num_bytes() for part in parts) / GB
    free = shutil.disk_usage(folder).free / GB
    log.warning("teacher_cache: %s takes up to %.3g GB; %.3g GB are free", folder, size, free)
    if size - sum(stored) / GB > free:
        raise TargetCacheError(
            f"teacher_cache: the targets take up to {size:.3g} GB, and {folder} has {free:.3g} GB free. Name a folder "
            "on a different disk, lower teacher_views, or leave teacher_cache out to run the teacher at every step."
        )


def _teacher_key(teacher: DualEncoder) -> TeacherKey:
    return TeacherKey(teacher.revision, str(teacher.dtype).removeprefix("torch."))


class _Images:
    """The targets of all views of the images.

    Attributes:
        shards: View and rows of each shard, by its file, view by view.
    """

    def __init__(
        self,
        folder: Path,
        teacher: DualEncoder,
        dataset: PairDataset,
        augment: Augment,
        spec: TargetSpec,
        num_views: int,
    ):
        self.teacher = teacher
        self.dataset = dataset
        self.augment = augment
        self.grid = spec.grid
        self.needed = "embedding" if spec.grid is None else "feature_map"
        self.num_views = num_views
        self.shards: dict[Path, tuple[int, Sequence[int]]] = {}
        parts = _chunks(range(len(dataset)), ROWS_PER_SHARD)
        for view in range(num_views):
            for number, rows in enumerate(parts):
                path = folder / "images" / f"view-{view:03d}-{number:05d}.safetensors"
                self.shards[path] = (view, rows)

    def key(self) -> ImageKey:
        processor = self.teacher.image_processor
        dataset = self.dataset
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

    def num_bytes(self) -> int:
        cells = 0 if self.grid is None else self.grid[0] * self.grid[1]
        width = self.teacher.projection_dim + self.teacher.vision_width * cells
        return 2 * width * self.num_views * len(self.dataset)

    def compute(self, paths: Sequence[Path], batch_size: int, device: torch.device | str):
        teacher = self.teacher.with_towers(("vision",)).to(device)
        normalize = Normalize.from_processor(teacher.image_processor, teacher.image_size)
        batches = []
        for path in paths:
            view, rows = self.shards[path]
            batches += [(view, part) for part in _chunks(rows, batch_size)]
        # the workers decode the next images meanwhile
        decode = partial(_decode_views, self.dataset, self.augment)
        workers = num_workers(self.dataset.config)
        num_bytes = batch_size * image_bytes(self.dataset.image_size)
        loader = data_loader(batches, workers, num_bytes, batch_size=None, collate_fn=decode)
        is_quiet = not PartialState().is_main_process
        decoded = iter(
            tqdm(loader, "teacher targets", len(batches), unit="batch", disable=is_quiet)
        )
        for path in paths:
            rows = self.shards[path][1]
            places = []
            encoded: list[dict[str, Tensor]] = []
            for _ in _chunks(rows, batch_size):
                ids, images, changes = next(decoded)
                if not len(ids):
                    continue
                images = images.to(device, non_blocking=True)
                views = self.augment(images, changes.to(device, non_blocking=True))
                places.append(ids - rows[0])
                encoded.append(self._encode(teacher, normalize(views)))
            tensors: dict[str, Tensor] = {}
            for name in encoded[0] if encoded else ():
                values = torch.cat([each[name] for each in encoded]).cpu()
                tensors[name] = values.new_zeros(len(rows), *values.shape[1:])
                tensors[name][torch.cat(places)] = values  # rows that do not decode stay zero
            save(tensors, path)

    def _encode(self, teacher: DualEncoder, pixel_values: Tensor) -> dict[str, Tensor]:
        targets = teacher.image_targets(pixel_values)
        values = {"embedding": targets.embedding.half()}
        if self.grid is not None:
            # never stored at a finer grid than the teacher's own
            own = targets.required_map.shape[-2:]
            grid = [min(sizes) for sizes in zip(self.grid, own, strict=True)]
            values["feature_map"] = resample_map(targets.required_map, grid).half()
        return values


def _decode_views(
    dataset: PairDataset, augment: Augment, batch: tuple[int, Sequence[int]]
) -> tuple[Tensor, Tensor, Views]:
    """Rows (B,) int64 that decode, their images (B, 3, S, S) uint8, and the changes of their views."""
    view, rows = batch
    decoded = []
    images = []
    for row, image in zip(rows, dataset.load_images(rows), strict=True):
        if isinstance(image, Tensor):
            decoded.append(row)
            images.append(image)
    ids = torch.tensor(decoded, dtype=torch.long)
    pixels = torch.stack(images) if images else torch.empty(0)
    return ids, pixels, augment.views(ids, torch.full_like(ids, view))


class _Captions:
    """The targets of all different captions.

    Attributes:
        shards: Captions of each shard, by its file.
    """

    def __init__(self, folder: Path, teacher: DualEncoder, dataset: PairDataset, spec: TargetSpec):
        assert dataset.tokens is not None and dataset.captions is not None
        self.teacher = teacher
        self.dataset = dataset
        self.token_maps = spec.token_maps
        self.needed = "states" if spec.token_maps else "embedding"
        self.tokens: CaptionTokenizer = dataset.tokens
        self.texts = list(dataset.captions)
        self.shards = {
            folder / "captions" / f"{number:05d}.safetensors": texts
            for number, texts in enumerate(_chunks(self.texts, CAPTIONS_PER_SHARD))
        }

    def key(self) -> CaptionKey:
        tokens = self.tokens
        tokenizer = self.teacher.tokenizer
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

    def num_bytes(self) -> int:
        width = float(self.teacher.projection_dim)
        if self.token_maps:
            some = [self.texts[row] for row in evenly_spaced_rows(len(self.texts), LENGTH_SAMPLE)]
            lengths = self.tokens.tokenize_for_teacher(some)["attention_mask"].sum(1)
            width += self.teacher.text_width * lengths.double().mean().item()
        return round(2 * width * len(self.texts))

    def compute(self, paths: Sequence[Path], batch_size: int, device: torch.device | str):
        teacher = self.teacher.with_towers(("text",)).to(device)
        is_quiet = not PartialState().is_main_process
        for path in tqdm(paths, "teacher captions", unit="shard", disable=is_quiet):
            save(self._encode(teacher, list(self.shards[path]), batch_size, device), path)

    def _encode(
        self, teacher: DualEncoder, texts: list[str], batch_size: int, device: torch.device | str
    ) -> dict[str, Tensor]:
        encoded = self.tokens.tokenize_for_teacher(texts)
        mask = encoded["attention_mask"]
        lengths = mask.sum(1)
        unaligned = self.tokens.unaligned or frozenset()
        states: list[Tensor] = [torch.empty(0)] * len(texts)

        def encode(indices: Tensor) -> tuple[Tensor]:
            length = int(lengths[indices[-1]])  # the last text is the longest
            ids, own_mask = (
                each[indices, :length].to(device, non_blocking=True)
                for each in (encoded["input_ids"], mask)
            )
            targets = teacher.text_targets(ids, own_mask)
            if self.token_maps:
                maps = targets.required_map.half()
                for index, tokens in zip(indices.tolist(), maps, strict=True):
                    num_tokens = 0 if texts[index] in unaligned else int(lengths[index])
                    states[index] = tokens[:num_tokens]
            return (targets.embedding.half(),)

        (embeddings,) = encode_by_length(lengths, batch_size, encode)
        if not self.token_maps:
            return {"embedding": embeddings.cpu()}
        start = torch.tensor([0, *map(len, states)]).cumsum(0)
        return {"embedding": embeddings.cpu(), "states": torch.cat(states).cpu(), "start": start}


def _chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Split a sequence into consecutive parts of `size` items; the last part may have fewer."""
    return [items[start : start + size] for start in range(0, len(items), size)]
