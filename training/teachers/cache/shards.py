"""The files of a cache: keys, shards, and how they are told to be whole and right."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.utils.files import atomic_write, write_text

CAPTIONS_PER_SHARD = 16384


class TargetCacheError(ValueError):
    """The cache is damaged, or holds something else than what this run needs."""


def claim(path: Path, key: dict[str, Any], sizes: dict[str, int]) -> dict[str, Any]:
    """Write the key of a new cache, or compare it with the one that is there; it may hold more than is asked for."""
    if not path.exists():
        write_text(path, json.dumps({"key": key} | sizes, indent=2, ensure_ascii=False))
    meta = read_meta(path)
    for name, value in key.items():
        if meta["key"].get(name) != value:
            raise TargetCacheError(
                f"teacher_cache: {path.parent} holds targets for {name}={meta['key'].get(name)!r}, this run has "
                f"{name}={value!r}. Name another folder, or remove this one."
            )
    return meta


def read_meta(path: Path) -> dict[str, Any]:
    """The key of a part of the cache, and its sizes.

    Raises:
        TargetCacheError: it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TargetCacheError(f"teacher_cache: {path} is damaged ({error}). Remove {path.parent}.") from error


def view_file(folder: Path, view: int, number: int) -> Path:
    """Where a shard of a view lies."""
    return folder / "images" / f"view-{view:03d}-{number:05d}.safetensors"


def caption_file(folder: Path, number: int) -> Path:
    """Where a shard of captions lies."""
    return folder / "captions" / f"{number:05d}.safetensors"


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def save(tensors: dict[str, Tensor], path: Path):
    """Write a shard whole or not at all."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise TargetCacheError(
                f"teacher_cache: the teacher's {name} is not finite in {tensor.dtype}. Train without a cache, or with "
                "teacher_dtype float32."
            )
    try:
        with atomic_write(path) as scratch:
            save_file(tensors, scratch, metadata={"blake2b": _digest(tensors)})
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"teacher_cache: cannot write {path} ({error}). What was written before is kept: make room, and run the "
            "same command again."
        ) from error


def open_shard(path: Path) -> dict[str, Tensor]:
    """The tensors of a shard.

    Raises:
        TargetCacheError: it is missing or damaged.
    """
    remedy = "Remove this file, and the same command makes it anew."
    try:
        with safe_open(path, "pt") as file:
            expected = (file.metadata() or {}).get("blake2b")
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TargetCacheError(f"teacher_cache: {path} cannot be read ({error}). {remedy}") from error
    if _digest(tensors) != expected:
        raise TargetCacheError(f"teacher_cache: {path} is damaged: its content has another digest. {remedy}")
    return tensors


def split_captions(texts: Sequence[str]) -> list[Sequence[str]]:
    """The captions of each shard."""
    return list(batches(texts, CAPTIONS_PER_SHARD))


def caption_place(number: int) -> tuple[int, int]:
    """The shard of a caption, and its place there."""
    return divmod(number, CAPTIONS_PER_SHARD)


def batches(items: Sequence, size: int) -> Iterator[Sequence]:
    """Runs of `size` items; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
