"""Embeddings on disk: memory-mapped shards in int8, float16, or binary with int8 for rescoring, scanned exactly.

A store is a folder of files that hold `SHARD_ROWS` rows each, row after row, without headers:

    000000.int8   (rows, D) int8: the vector divided by its scale      000000.scale  (rows,) float32: the scale
    000000.float16 (rows, D) float16                                   000000.signs  (rows, D / 8) uint8: the signs

The signs are those of the vectors in a random rotation, which spreads their information evenly over all dimensions:
embeddings that can be truncated carry most of it in the first ones, so that the signs of the others are noise.
Source: RaBitQ (Gao and Long, arXiv 2405.12497).

Which rows are valid is not stored here. The catalog of the index (catalog_dcclip.py) decides that, so a row may be
written again until the catalog commits it.
"""

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

DTYPES = ("int8", "float16", "binary")
SHARD_ROWS = 65_536
BLOCK_ROWS = 2048  # rows converted to float32 at once: a block of 256 dimensions fits the second-level cache
# a binary scan passes this many candidates for each result on to int8, and at least the minimum
RESCORED, MIN_RESCORED = 20, 400


class VectorStore:
    """Vectors of unit length by row number.

    Args:
        folder: Folder of the shards; it is created by the first write.
        dimension: Number of dimensions D, at least 1. For binary, a multiple of 8.
        dtype: How vectors are stored: `int8` (D + 4 bytes a row), `float16` (2 D bytes), or `binary` (D / 8 bytes that
            are scanned, and D + 4 bytes of int8 that are read for the candidates only).

    Raises:
        ValueError: The type does not exist, or does not fit the dimension.
    """

    def __init__(self, folder: Path, dimension: int, dtype: str):
        if dtype not in DTYPES:
            raise ValueError(f"dtype: there is no {dtype!r}. Expected: {', '.join(DTYPES)}.")
        if dtype == "binary" and dimension % 8:
            raise ValueError(f"dtype: binary needs a multiple of 8 dimensions, this model has {dimension}. Use int8.")
        self.folder, self.dimension, self.dtype = folder, dimension, dtype
        self._maps: dict[Path, np.ndarray] = {}

    @property
    def bytes_per_row(self) -> int:
        """Bytes on the disk of one vector."""
        int8 = self.dimension + 4
        return {"int8": int8, "float16": 2 * self.dimension, "binary": int8 + self.dimension // 8}[self.dtype]

    def write(self, rows: np.ndarray, vectors: np.ndarray):
        """Write vectors and flush them to the disk.

        Args:
            rows: Row numbers, (N,) int64, in any order.
            vectors: Vectors of unit length, (N, D) float32.

        Raises:
            OSError: The disk is full or cannot be written. Other rows are unchanged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, values in self._encode(vectors).items():
            for shard in np.unique(rows // SHARD_ROWS):
                chosen = rows // SHARD_ROWS == shard
                _write_rows(self._path(int(shard), name), rows[chosen] % SHARD_ROWS, values[chosen])

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Read vectors.

        Args:
            rows: Row numbers, (N,) int64.

        Returns:
            (N, D) float32, of unit length up to rounding.
        """
        if self.dtype == "float16":
            return self._gather("float16", rows).astype(np.float32)
        return self._gather("int8", rows).astype(np.float32) * self._gather("scale", rows)[:, None]

    def search(self, query: np.ndarray, count: int, top: int, allowed: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """Find the rows with the highest cosine similarity to a query, by a scan of all rows.

        Args:
            query: Vector of unit length, (D,) float32.
            count: Number of rows to scan, from row 0.
            top: Maximum number of results, at least 1.
            allowed: Whether each row may be found, (count,) bool. None allows all rows.

        Returns:
            Row numbers, (K,) int64, and cosine similarities, (K,) float32; highest first, and of equal ones the lower
            row first.
        """
        scores = self.binary_scores(query, count) if self.dtype == "binary" else self.scores(query, count)
        if allowed is not None:
            scores = np.where(allowed, scores, -np.inf)
        if self.dtype == "binary":
            candidates = np.sort(largest(scores, max(RESCORED * top, MIN_RESCORED)))
            scores = self.read(candidates) @ query
            best = largest(scores, top)
            return candidates[best], scores[best]
        rows = largest(scores, top)
        return rows, scores[rows]

    def scores(self, query: np.ndarray, count: int) -> np.ndarray:
        """Cosine similarities of a query to all rows.

        Args:
            query: Vector of unit length, (D,) float32.
            count: Number of rows, from row 0.

        Returns:
            (count,) float32.
        """
        name = "float16" if self.dtype == "float16" else "int8"
        scores = np.empty(count, np.float32)
        block = np.empty((BLOCK_ROWS, self.dimension), np.float32)
        for start, codes in self._blocks(name, count):
            np.copyto(block[: len(codes)], codes)
            np.dot(block[: len(codes)], query, out=scores[start : start + len(codes)])
        if name == "int8":
            for start, scales in self._blocks("scale", count):
                scores[start : start + len(scales)] *= scales
        return scores

    def binary_scores(self, query: np.ndarray, count: int) -> np.ndarray:
        """Number of dimensions whose sign equals the query's in the random rotation, for all rows.

        Args:
            query: Vector, (D,) float32.
            count: Number of rows, from row 0.

        Returns:
            (count,) float32.
        """
        signs = np.packbits(query @ random_rotation(self.dimension) > 0)
        word = np.uint64 if len(signs) % 8 == 0 else np.uint8
        scores = np.empty(count, np.float32)
        for start, bits in self._blocks("signs", count):
            differing = np.bitwise_count(bits.view(word) ^ signs.view(word))
            scores[start : start + len(bits)] = self.dimension - differing.sum(1, dtype=np.int32)
        return scores

    def iterate(self, count: int, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks of all vectors.

        Args:
            count: Number of rows, from row 0.
            size: Maximum number of rows in a block.

        Yields:
            The first row of each block, and its vectors, (N, D) float32.
        """
        for start in range(0, count, size):
            yield start, self.read(np.arange(start, min(start + size, count)))

    @property
    def _kinds(self) -> tuple[str, ...]:
        """Suffixes of the files of a shard."""
        return {"int8": ("int8", "scale"), "float16": ("float16",), "binary": ("int8", "scale", "signs")}[self.dtype]

    def lost_rows(self, count: int) -> np.ndarray:
        """Rows that a damaged or missing file lacks.

        Args:
            count: Number of rows that there should be, from row 0.

        Returns:
            (N,) int64.
        """
        lost = [np.zeros(0, np.int64)]
        for first in range(0, count, SHARD_ROWS):
            rows = min(SHARD_ROWS, count - first)
            stored = min(self._stored(self._path(first // SHARD_ROWS, name), name) for name in self._kinds)
            lost.append(np.arange(first + stored, first + rows))
        return np.concatenate(lost)

    def extend(self, count: int):
        """Make damaged files long enough; the rows that were lost are zeros then.

        Args:
            count: Number of rows that there should be, from row 0.

        Raises:
            OSError: The disk is full or cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for first in range(0, count, SHARD_ROWS):
            for name in self._kinds:
                path, rows = self._path(first // SHARD_ROWS, name), min(SHARD_ROWS, count - first)
                if self._stored(path, name) < rows:
                    with path.open("ab") as file:
                        file.truncate(rows * self._row_bytes(name))
                        os.fsync(file.fileno())

    def copy(self, count: int) -> "VectorStore":
        """A store whose vectors are in memory, so that later writes do not change them. Read vectors from it only.

        Args:
            count: Number of rows, from row 0.
        """
        store = VectorStore(self.folder, self.dimension, self.dtype)
        for name in ("float16",) if self.dtype == "float16" else ("int8", "scale"):
            for first in range(0, count, SHARD_ROWS):
                shard, rows = first // SHARD_ROWS, min(SHARD_ROWS, count - first)
                store._maps[self._path(shard, name)] = np.array(self._map(shard, name, rows)[:rows])
        return store

    def _encode(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """The content of each kind of file, by its suffix."""
        if self.dtype == "float16":
            return {"float16": vectors.astype(np.float16)}
        scales = np.maximum(np.abs(vectors).max(1), np.finfo(np.float32).tiny).astype(np.float32) / np.float32(127)
        encoded = {"int8": np.rint(vectors / scales[:, None]).astype(np.int8), "scale": scales}
        if self.dtype == "binary":
            encoded["signs"] = np.packbits(vectors @ random_rotation(self.dimension) > 0, 1)
        return encoded

    def _path(self, shard: int, name: str) -> Path:
        return self.folder / f"{shard:06d}.{name}"

    def _map(self, shard: int, name: str, rows: int) -> np.ndarray:
        """Memory map of at least the first rows of a file."""
        path = self._path(shard, name)
        mapped = self._maps.get(path)
        if mapped is None or len(mapped) < rows:
            dtype, width = self._layout(name)
            if (stored := self._stored(path, name)) < rows:
                raise ValueError(
                    f"index: {str(path)!r} has {stored} rows, expected {rows}. Embed the others again: dcclip index."
                )
            mapped = self._maps[path] = np.memmap(path, dtype, "r", shape=(stored, *width))
        return mapped

    def _layout(self, name: str) -> tuple[np.dtype, tuple[int, ...]]:
        """Type and shape of one row of a kind of file."""
        if name == "scale":
            return np.dtype(np.float32), ()
        return (np.dtype(np.uint8), (self.dimension // 8,)) if name == "signs" else (np.dtype(name), (self.dimension,))

    def _row_bytes(self, name: str) -> int:
        dtype, width = self._layout(name)
        return dtype.itemsize * int(np.prod(width, dtype=int))

    def _stored(self, path: Path, name: str) -> int:
        """Number of whole rows in a file; 0 if it is missing."""
        return path.stat().st_size // self._row_bytes(name) if path.exists() else 0

    def _blocks(self, name: str, count: int) -> Iterator[tuple[int, np.ndarray]]:
        for first in range(0, count, SHARD_ROWS):
            rows = min(SHARD_ROWS, count - first)
            mapped = np.asarray(self._map(first // SHARD_ROWS, name, rows))
            for start in range(0, rows, BLOCK_ROWS):
                yield first + start, mapped[start : min(start + BLOCK_ROWS, rows)]

    def _gather(self, name: str, rows: np.ndarray) -> np.ndarray:
        shards = rows // SHARD_ROWS
        parts = {
            int(shard): np.asarray(self._map(int(shard), name, int(rows[shards == shard].max()) % SHARD_ROWS + 1))
            for shard in np.unique(shards)
        }
        if len(parts) == 1:
            return next(iter(parts.values()))[rows % SHARD_ROWS]
        dtype, width = self._layout(name)
        gathered = np.empty((len(rows), *width), dtype)
        for shard, mapped in parts.items():
            gathered[shards == shard] = mapped[rows[shards == shard] % SHARD_ROWS]
        return gathered


@lru_cache(maxsize=4)
def random_rotation(dimension: int) -> np.ndarray:
    """A fixed rotation, drawn at random from all rotations.

    It is drawn from a hash, and not by NumPy, whose generators may change and would make old signs useless.

    Args:
        dimension: Number of dimensions D.

    Returns:
        (D, D) float32, orthogonal.
    """
    content = hashlib.shake_256(b"dcclip signs").digest(8 * dimension * dimension)
    radius, angle = ((np.frombuffer(content, "<u4") + 0.5) / 2**32).reshape(2, dimension, dimension)
    normal = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)
    return np.linalg.qr(normal)[0].astype(np.float32)


def _write_rows(path: Path, rows: np.ndarray, values: np.ndarray):
    """Write rows of a file in place. Ordinary writes report a full disk as an error; a memory map would be killed."""
    values = np.ascontiguousarray(values)
    size = values[0].nbytes
    with path.open("r+b" if path.exists() else "w+b", buffering=0) as file:
        starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)  # a run of successive rows is one write
        for begin, end in zip(starts, [*starts[1:], len(rows)], strict=True):
            file.seek(int(rows[begin]) * size)
            remaining = values[begin:end].data.cast("B")
            while remaining:
                remaining = remaining[file.write(remaining) :]
        os.fsync(file.fileno())


def largest(scores: np.ndarray, top: int) -> np.ndarray:
    """Positions of the largest finite scores, largest first; of equal ones the lower position first.

    Args:
        scores: Scores, (N,) float32.
        top: Maximum number of positions.

    Returns:
        (K,) int64.
    """
    if top < len(scores):
        # the maxima of chunks bound the score from below, which leaves few candidates to sort
        chunk = max(len(scores) // (16 * top), 1)
        maxima = np.maximum.reduceat(scores, np.arange(0, len(scores), chunk))
        bound = np.partition(maxima, -top)[-top] if top < len(maxima) else -np.inf
        candidates = np.flatnonzero(scores >= bound)
    else:
        candidates = np.arange(len(scores))
    order = candidates[np.argsort(-scores[candidates], kind="stable")][:top]
    return order[np.isfinite(scores[order])]
