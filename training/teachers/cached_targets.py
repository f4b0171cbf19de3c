"""A finished cache of teacher targets: its files with their checks, and the targets that a run reads from it.

`cache.py` describes the folder and fills it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.data.batch import Batch
from training.teachers import Targets
from training.teachers.lineage import digest_tensors
from training.teachers.targets import TargetSpec, resample_map
from training.utils.files import atomic_write, write_text
from training.utils.reading import read_mapping

CAPTIONS_PER_SHARD = 16384


class TargetCacheError(ValueError):
    """The cache is damaged, or does not hold the targets that the run needs."""


def claim(path: Path, key: dict[str, Any], sizes: dict[str, int]) -> dict[str, Any]:
    """Write the key of a new part of a cache, or compare it with the key of an existing one.

    Args:
        path: JSON file of the key.
        key: Everything that the targets depend on. An existing key may have more fields, such as maps that this run
            does not need. A field that is None must be missing there.
        sizes: Number of rows, and how they are split into shards.

    Returns:
        The content of the file: the sizes, and the key as `key`.

    Raises:
        TargetCacheError: The file is damaged, or a field of the key differs.
    """
    if not path.exists():
        stated = {name: value for name, value in key.items() if value is not None}
        write_text(path, json.dumps({"key": stated} | sizes, indent=2, ensure_ascii=False))
    meta = read_meta(path)
    for name, value in key.items():
        if (found := meta["key"].get(name)) != value:
            raise TargetCacheError(
                f"teacher_cache: {path.parent} holds targets for {name}={found!r}, this run has {name}={value!r}. "
                "Name a different folder, or remove this one."
            )
    return meta


def read_meta(path: Path) -> dict[str, Any]:
    """Read the key and the sizes of a part of a cache.

    Raises:
        TargetCacheError: The file is damaged.
    """
    try:
        return read_mapping(path, "teacher_cache", key=dict)
    except ValueError as error:
        raise TargetCacheError(f"{error} Or remove {path.parent}.") from error


def view_file(folder: Path, view: int, number: int) -> Path:
    """Path of shard `number` of a view of the images."""
    return folder / "images" / f"view-{view:03d}-{number:05d}.safetensors"


def caption_file(folder: Path, number: int) -> Path:
    """Path of shard `number` of the captions."""
    return folder / "captions" / f"{number:05d}.safetensors"


def _digest(tensors: dict[str, Tensor]) -> str:
    return digest_tensors(tensors, hashlib.blake2b(digest_size=16))


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
            save_file(tensors, scratch, metadata={"blake2b": _digest(tensors)})
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"teacher_cache: cannot write {path} ({error}). Finished shards are kept: free some space, and run "
            "the same command again."
        ) from error


def open_shard(path: Path) -> dict[str, Tensor]:
    """Open the tensors of a shard.

    Raises:
        TargetCacheError: The shard is missing or damaged.
    """
    remedy = "Remove this file, and run the same command to compute it again."
    try:
        with safe_open(path, "pt") as file:
            expected = (file.metadata() or {}).get("blake2b")
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TargetCacheError(
            f"teacher_cache: {path} cannot be read ({error}). {remedy}"
        ) from error
    if _digest(tensors) != expected:
        raise TargetCacheError(f"teacher_cache: {path} is damaged: checksum mismatch. {remedy}")
    return tensors


class CachedTargets:
    """Targets that `build_target_cache` stored.

    Args:
        folder: Folder of the cache.
        spec: Targets that the run needs.
        device: Device of the batches.

    Raises:
        TargetCacheError: A shard is damaged.
    """

    def __init__(self, folder: Path, spec: TargetSpec, device: torch.device | str = "cpu"):
        self.spec, self.device, self.num_views = spec, torch.device(device), 1
        # memory-mapped: only the rows of the current batches stay in memory
        if "vision" in spec.towers:
            meta = read_meta(folder / "images.json")
            self.num_views, self.rows_per_shard = meta["key"]["num_views"], meta["rows_per_shard"]
            shards = range(-(-meta["num_rows"] // self.rows_per_shard))
            self.views = [
                [open_shard(view_file(folder, view, n)) for n in shards]
                for view in range(self.num_views)
            ]
        if "text" in spec.towers:
            meta = read_meta(folder / "captions.json")
            shards = range(-(-meta["num_captions"] // CAPTIONS_PER_SHARD))
            self.captions = [open_shard(caption_file(folder, n)) for n in shards]

    # autocast cannot stack float16 tensors if its own half precision is bfloat16
    @torch.autocast("cpu", enabled=False)
    def images(self, images: Tensor, batch: Batch) -> Targets:
        """Targets of the `rows` and `view_ids` of a batch; the images are unused."""
        keys = list(zip(batch["rows"].tolist(), batch["view_ids"].tolist(), strict=True))
        shards = [
            (self.views[view][row // self.rows_per_shard], row % self.rows_per_shard)
            for row, view in keys
        ]
        embedding = (
            torch.stack([shard["embedding"][row] for shard, row in shards]).to(self.device).float()
        )
        if self.spec.grid is None:
            return Targets(None, embedding)
        maps = torch.stack([shard["feature_map"][row] for shard, row in shards])  # (B, D, H, W)
        return Targets(resample_map(maps.to(self.device).float(), self.spec.grid), embedding)

    @torch.autocast("cpu", enabled=False)
    def texts(self, batch: Batch) -> Targets:
        """Targets of the captions of a batch; token states are padded with zeros."""
        keys = [divmod(number, CAPTIONS_PER_SHARD) for number in batch["caption_ids"].tolist()]
        shards = [(self.captions[shard], number) for shard, number in keys]
        embedding = (
            torch.stack([shard["embedding"][n] for shard, n in shards]).to(self.device).float()
        )
        if not self.spec.token_maps:
            return Targets(None, embedding)
        states = [shard["states"][shard["start"][n] : shard["start"][n + 1]] for shard, n in shards]
        maps = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)  # (T, L, D)
        return Targets(maps.to(self.device).float(), embedding)
