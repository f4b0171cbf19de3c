"""The files of a cache: keys, shards and their checks."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.teachers.lineage import digest_tensors
from training.utils.files import atomic_write, write_text

CAPTIONS_PER_SHARD = 16384

Item = TypeVar("Item")


class TargetCacheError(ValueError):
    """The cache is damaged, or it holds other targets than the run needs."""


def claim(path: Path, key: dict[str, Any], sizes: dict[str, int], preparation: dict[str, Any]) -> dict[str, Any]:
    """Write the key of a new part of a cache, or compare it with the key of an existing one.

    Args:
        path: JSON file of the key.
        key: Everything that the targets depend on. An existing key may have more fields, such as maps that this run
            does not need. A field that is None must be missing there.
        sizes: Number of rows, and how they are split into shards.
        preparation: How the teacher's inputs are prepared, which files beside its weights state. It is compared if
            the cache states it.

    Returns:
        The content of the file: the sizes, and the key as `key`.

    Raises:
        TargetCacheError: The file is damaged, or a field of the key differs.
    """
    if not path.exists():
        stated = {name: value for name, value in key.items() if value is not None}
        content = {"key": stated, "preparation": preparation} | sizes
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False))
    meta = read_meta(path)
    found = meta["key"] | meta.get("preparation", preparation)
    for name, value in (key | preparation).items():
        if found.get(name) != value:
            raise TargetCacheError(
                f"teacher_cache: {path.parent} holds targets for {name}={found.get(name)!r}, this run has "
                f"{name}={value!r}. Name another folder, or remove this one."
            )
    return meta


def read_meta(path: Path) -> dict[str, Any]:
    """Read the key and the sizes of a part of a cache.

    Raises:
        TargetCacheError: The file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TargetCacheError(f"teacher_cache: {path} is damaged ({error}). Remove {path.parent}.") from error


def view_file(folder: Path, view: int, number: int) -> Path:
    """Path of a shard of images.

    Args:
        folder: Folder of the cache.
        view: Number of the view.
        number: Number of the shard.
    """
    return folder / "images" / f"view-{view:03d}-{number:05d}.safetensors"


def caption_file(folder: Path, number: int) -> Path:
    """Path of a shard of captions.

    Args:
        folder: Folder of the cache.
        number: Number of the shard.
    """
    return folder / "captions" / f"{number:05d}.safetensors"


def _digest(tensors: dict[str, Tensor]) -> str:
    return digest_tensors(tensors, hashlib.blake2b(digest_size=16))


def save(tensors: dict[str, Tensor], path: Path):
    """Write a shard atomically.

    Args:
        tensors: Tensors of the shard by name.
        path: Path of the shard.

    Raises:
        TargetCacheError: A value is not finite.
        OSError: The file cannot be written, for example because the disk is full.
    """
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
        raise TargetCacheError(f"teacher_cache: {path} cannot be read ({error}). {remedy}") from error
    if _digest(tensors) != expected:
        raise TargetCacheError(f"teacher_cache: {path} is damaged: its content has another digest. {remedy}")
    return tensors


def split_captions(texts: Sequence[Item]) -> list[Sequence[Item]]:
    """Split captions, or their numbers, into shards."""
    return list(batches(texts, CAPTIONS_PER_SHARD))


def caption_place(number: int) -> tuple[int, int]:
    """Number of the shard of a caption, and its index in the shard."""
    return divmod(number, CAPTIONS_PER_SHARD)


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Split a sequence into consecutive parts.

    Args:
        items: Sequence to split.
        size: Number of items in a part; the last part may have fewer.
    """
    for start in range(0, len(items), size):
        yield items[start : start + size]
