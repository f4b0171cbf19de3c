"""A finished cache of teacher targets: its files with their checks, and the targets that a run reads from it.

`cache.py` describes the folder and fills it.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.data.batch import Batch
from training.teachers import Targets
from training.teachers.lineage import digest_tensors
from training.teachers.targets import TargetSpec, resample_map
from training.utils.files import atomic_write, write_json
from training.utils.keys import differences, make_key
from training.utils.reading import read_mapping

ROWS_PER_SHARD = 2048
CAPTIONS_PER_SHARD = 16384
CHECKSUM = "digest"
REMEDY = "Remove this file, and run the same command to compute it again."


class TargetCacheError(ValueError):
    """The cache is damaged, or does not hold the targets that the run needs."""


def claim(path: Path, parts: Any, optional: str):
    """Write the key of a new part of a cache, or compare it with the key of an existing one.

    Args:
        path: JSON file of the key.
        parts: Dataclass with everything that the targets depend on.
        optional: Field that is None in a run that does not need these targets. A cache that has them fits too.

    Raises:
        TargetCacheError: The file is damaged, or a field of the key differs.
    """
    key = make_key(parts)
    if not path.exists():
        write_json(path, key)
    try:
        stored = read_mapping(path, "teacher_cache")
    except ValueError as error:
        raise TargetCacheError(f"{error} Or remove {path.parent}.") from error
    if key[optional] is None:
        stored[optional] = None
    for each in (stored, key):  # as the recipe names it
        if "num_views" in each:
            each["teacher_views"] = each.pop("num_views")
    if found := differences(stored, key):
        raise TargetCacheError(
            f"teacher_cache: {path.parent} holds targets of a different run ({'; '.join(found)}). Name a different "
            "folder, or remove this one."
        )


def save(tensors: dict[str, Tensor], path: Path):
    """Write a shard atomically.

    Raises:
        TargetCacheError: A value is not finite.
        OSError: The file cannot be written, for example because the disk is full.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise TargetCacheError(
                f"teacher_cache: the teacher's {name} is not finite in {tensor.dtype}. Train without a cache."
            )
    try:
        with atomic_write(path) as scratch:
            save_file(tensors, scratch, metadata={CHECKSUM: digest_tensors(tensors)})
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"teacher_cache: cannot write {path} ({error}). Finished shards are kept: free some space, and run "
            "the same command again."
        ) from error


def open_shard(path: Path) -> dict[str, Tensor]:
    """Open the tensors of a shard, memory-mapped.

    Raises:
        TargetCacheError: The shard is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TargetCacheError(
            f"teacher_cache: {path} cannot be read ({error}). {REMEDY}"
        ) from error


def lacks(path: Path, name: str) -> bool:
    """Whether a shard is missing, or a run that did not need this tensor has written it. A damaged one is kept."""
    if not path.exists():
        return True
    with suppress(OSError, SafetensorError), safe_open(path, "pt") as file:
        return name not in {*file.keys()}
    return False


def find_damage(path: Path) -> str | None:
    """Read a whole shard, and describe what is wrong with it; None if nothing is."""
    try:
        tensors = open_shard(path)
        with safe_open(path, "pt") as file:
            expected = (file.metadata() or {}).get(CHECKSUM)
    except (TargetCacheError, OSError, SafetensorError) as error:
        return str(error)
    if digest_tensors(tensors) == expected:
        return None
    return f"teacher_cache: {path} is damaged: checksum mismatch. {REMEDY}"


class CachedTargets:
    """Targets that `build_target_cache` stored.

    The checksums of all shards are compared in the background, from the first batch on; each process of a run reads
    its share of the shards. The batch after a mismatch raises.

    Args:
        spec: Targets that the run needs.
        images: Shards of the views of the images, view by view; each has `ROWS_PER_SHARD` rows.
        captions: Shards of the captions; each has `CAPTIONS_PER_SHARD` captions.
        num_views: Number of views of each image.
        device: Device of the batches.

    Raises:
        TargetCacheError: A shard is missing or cannot be opened.
    """

    def __init__(
        self,
        spec: TargetSpec,
        images: Sequence[Path],
        captions: Sequence[Path],
        num_views: int,
        device: torch.device | str = "cpu",
    ):
        self.spec = spec
        self.num_views = num_views
        self.device = torch.device(device)
        # memory-mapped: only the rows of the current batches stay in memory
        self.views = [open_shard(path) for path in images]
        self.captions = [open_shard(path) for path in captions]
        self._files = [*images, *captions]
        self._damage: str | None = None
        self._checking: Thread | None = None

    def check(self):
        """Start to compare checksums, at the first call, and report a mismatch that was found.

        Raises:
            TargetCacheError: A shard is damaged.
        """
        if self._checking is None:  # not before the loader has started its workers by a fork
            self._checking = Thread(target=self._compare_checksums, daemon=True)
            self._checking.start()
        if self._damage is not None:
            raise TargetCacheError(self._damage)

    def _compare_checksums(self):
        state = PartialState()
        for path in self._files[state.process_index :: state.num_processes]:
            self._damage = self._damage or find_damage(path)

    def read(self, batch: Batch) -> Batch:
        """Read the targets of a batch, for a loader that reads them in its workers.

        Returns:
            Fields of `Batch`: `image_targets`, `image_maps`, `text_targets` and `text_maps`, in float16.
        """
        fields: Batch = {}
        if "vision" in self.spec.towers:
            fields.update(self._read_images(batch))
        if "text" in self.spec.towers:
            fields.update(self._read_texts(batch))
        return fields

    def _read_images(self, batch: Batch) -> Batch:
        shards_per_view = len(self.views) // self.num_views
        embeddings = []
        maps = []
        for row, view in zip(batch["rows"].tolist(), batch["view_ids"].tolist(), strict=True):
            shard = self.views[view * shards_per_view + row // ROWS_PER_SHARD]
            place = row % ROWS_PER_SHARD
            embeddings.append(shard["embedding"][place])
            if self.spec.grid is not None:
                maps.append(shard["feature_map"][place])
        fields: Batch = {"image_targets": torch.stack(embeddings)}
        if maps:
            fields["image_maps"] = torch.stack(maps)  # (B, D, H, W)
        return fields

    def _read_texts(self, batch: Batch) -> Batch:
        embeddings = []
        states = []
        for number in batch["caption_ids"].tolist():
            shard = self.captions[number // CAPTIONS_PER_SHARD]
            place = number % CAPTIONS_PER_SHARD
            embeddings.append(shard["embedding"][place])
            if self.spec.token_maps:
                start, stop = shard["start"][place : place + 2]
                states.append(shard["states"][start:stop])
        fields: Batch = {"text_targets": torch.stack(embeddings)}
        if states:
            fields["text_maps"] = pad_sequence(states, batch_first=True)  # (T, L, D)
        return fields

    # autocast cannot stack float16 tensors if its own half precision is bfloat16
    @torch.autocast("cpu", enabled=False)
    def images(self, images: Tensor, batch: Batch) -> Targets:
        """Targets of the `rows` and `view_ids` of a batch; the images are unused."""
        self.check()
        if "image_targets" not in batch:
            batch = self._read_images(batch)
        maps = None
        if self.spec.grid is not None:
            maps = resample_map(self._on_device(batch["image_maps"]), self.spec.grid)
        return Targets(maps, self._on_device(batch["image_targets"]))

    @torch.autocast("cpu", enabled=False)
    def texts(self, batch: Batch) -> Targets:
        """Targets of the captions of a batch; token states are padded with zeros."""
        self.check()
        if "text_targets" not in batch:
            batch = self._read_texts(batch)
        maps = self._on_device(batch["text_maps"]) if self.spec.token_maps else None
        return Targets(maps, self._on_device(batch["text_targets"]))

    def _on_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True).float()
