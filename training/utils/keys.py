"""Keys of caches, shards and checkpoints: a stored result is reused only if everything that it depends on is the same.
Random numbers have keys too, so a resumed run equals one without interruption.

A key is built from a dataclass, so a new field is part of the key unless the dataclass says otherwise.

Digests outside this file identify what others identify in their own way: `digest_files` in runtime_dcclip.py the files
of a model, text/pipeline.py a tokenizer (SHA-256), and experiments/corpus the files of pip packages (SHA-256).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modeling_dcclip.image_dcclip import open_regular

_IN_KEY = "in_key"
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)  # increment of SplitMix64


def no_key(**keywords: Any) -> Any:
    """A field, as `dataclasses.field` makes it, that the result does not depend on, such as an output folder."""
    return field(metadata={_IN_KEY: False}, **keywords)


def make_key(parts: Any) -> dict[str, Any]:
    """Build the key of a result from a dataclass with everything that the result depends on.

    Args:
        parts: Instance of a dataclass. Its values are strings, numbers, booleans, None, paths, and lists, tuples,
            mappings or dataclasses of these. Fields made by `no_key` are left out, in nested dataclasses too.

    Returns:
        The fields by name, as values that JSON restores unchanged.

    Raises:
        TypeError: A value is of a different type. Name its content instead, such as a digest.
    """
    return {
        each.name: _json_value(getattr(parts, each.name))
        for each in fields(parts)
        if each.metadata.get(_IN_KEY, True)
    }


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return make_key(value)
    if isinstance(value, Mapping):
        return {str(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    raise TypeError(f"{value!r:.80} of type {type(value).__name__} cannot be part of a key")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe every value that differs between two keys, such as `augment.flip: 0.0, now 0.5`."""
    flat_before = _flat(before)
    flat_now = _flat(now)
    return [
        f"{name}: {flat_before.get(name)!r}, now {flat_now.get(name)!r}"
        for name in flat_before | flat_now
        if name not in flat_before or name not in flat_now or flat_before[name] != flat_now[name]
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


class Digest:
    """A running digest. Each part counts with its length: ("ab", "c") and ("a", "bc") differ."""

    def __init__(self):
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, *parts: Any) -> "Digest":
        """Add parts in order: strings, or objects with the buffer protocol, such as bytes and arrays."""
        for part in parts:
            data = memoryview(part.encode() if isinstance(part, str) else part)
            self._hash.update(data.nbytes.to_bytes(8, "little"))
            if data.nbytes:  # an empty array cannot be cast
                self._hash.update(data.cast("B"))
        return self

    def hex(self) -> str:
        """The digest so far, 32 hexadecimal digits."""
        return self._hash.hexdigest()


def fingerprint(content: bytes, size: int = 8) -> bytes:
    """Digest of a text, a matrix or a file's content, `size` bytes, which other programs compute in the same way."""
    return hashlib.blake2b(content, digest_size=size).digest()


def digest_key(key: Mapping[str, Any]) -> str:
    """Digest of a key, 32 hexadecimal digits. The order of its names does not count."""
    return Digest().add(json.dumps(key, sort_keys=True)).hex()


def digest_file(path: Path) -> str:
    """Digest of a file's content, 32 hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def keyed_uniform(seed: int, *keys: np.ndarray | int, num: int) -> np.ndarray:
    """Return uniform numbers in [0, 1) that are a pure function of seed and keys, not drawn from a stream.

    Args:
        seed: Any integer.
        keys: Integers or integer arrays of shape (B,). Their order matters.
        num: How many numbers to return for each row.

    Returns:
        (B, num) float64.

    Source: SplitMix64 (Steele et al., OOPSLA 2014), used as a hash.
    """
    state = _mix(np.array(np.uint64(seed & (2**64 - 1))))  # else seed and first key would be added
    for key in keys:
        state = _mix(state + np.asarray(key).astype(np.uint64))
    steps = np.arange(1, num + 1, dtype=np.uint64) * _INCREMENT
    mixed = _mix(np.atleast_1d(state)[:, None] + steps)  # (B, num)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(value: np.ndarray) -> np.ndarray:
    """Apply one step of SplitMix64 to each number."""
    with np.errstate(over="ignore"):
        value = (np.asarray(value) + _INCREMENT).astype(np.uint64)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))
