"""Embeddings on disk: memory-mapped files of int8 vectors, scanned exactly.

A store is a folder of three files, which have the rows one after the other, without headers:

    values.int8     (rows, D) int8: the vector divided by its scale
    scale.float32   (rows,) float32: the scale
    check.uint32    (rows,) uint32: checksum of the row, its number and the key of the index

The checksum is a weighted sum of the int8 values that float32 computes exactly, so a scan verifies every row at the
cost of a second product. The catalog of the index (catalog.py) decides which rows are valid: a row may be written
again until the catalog commits it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BLOCK_ROWS = (
    2048  # rows converted to float32 at once: a block of 256 dimensions fits the second-level cache
)
MAX_WEIGHT = 255  # of a value in the checksum
MULTIPLIER = (
    2_654_435_761  # spreads row numbers over 32 bits (Knuth, The Art of Computer Programming, 6.4)
)


class VectorStore:
    """Vectors of unit length by row number.

    Args:
        folder: Folder of the files; it is created by the first write.
        dimension: Number of dimensions D, at least 1.
        key: Number of the index in 0..2**32 - 1. Rows that were written with a different key count as damaged.
    """

    def __init__(self, folder: Path, dimension: int, key: int = 0):
        self.folder, self.dimension, self.key = folder, dimension, key
        # type of a row of each file
        self._types = {
            folder / "values.int8": np.dtype((np.int8, (dimension,))),
            folder / "scale.float32": np.dtype(np.float32),
            folder / "check.uint32": np.dtype(np.uint32),
        }
        self._mapped = [np.empty(0, dtype) for dtype in self._types.values()]
        # float32 adds integers exactly up to 2**24, in any order
        limit = max(1, min(MAX_WEIGHT, 2**24 // (128 * dimension)))
        self._weights = (1 + np.arange(dimension) * 151 % limit).astype(np.float32)

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one vector on the disk."""
        return sum(dtype.itemsize for dtype in self._types.values())

    def write(self, rows: np.ndarray, vectors: np.ndarray):
        """Write vectors and flush them to the disk.

        Args:
            rows: Row numbers, (N,) int64, in any order.
            vectors: Vectors of unit length, (N, D) float32.

        Raises:
            ValueError: A vector has values that are not finite. Nothing is written.
            OSError: The disk is full or cannot be written. Other rows are unchanged.
        """
        if not np.isfinite(vectors).all():
            raise ValueError("vectors: an embedding is not finite. Export the model again.")
        self.folder.mkdir(parents=True, exist_ok=True)
        scales = np.maximum(np.abs(vectors).max(1), np.finfo(np.float32).tiny).astype(
            np.float32
        ) / np.float32(127)
        values = np.rint(vectors / scales[:, None]).astype(np.int8)
        checks = self._checksums(rows, values.astype(np.float32), scales)
        for path, column in zip(self._types, (values, scales, checks), strict=True):
            _write_rows(path, rows, column)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Read vectors.

        Args:
            rows: Row numbers, (N,) int64.

        Returns:
            (N, D) float32, of unit length up to rounding.

        Raises:
            ValueError: A row is missing or damaged.
        """
        codes, scales = self.read_codes(rows)
        return codes.astype(np.float32) * scales[:, None]

    def read_codes(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stored values in -127..127, (N, D) int8, and scales, (N,) float32, of rows. Damaged ones are refused."""
        values, scales, checks = (
            column[rows] for column in self._map(int(rows.max(initial=-1)) + 1)
        )
        for start in range(0, len(rows), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            found = self._checksums(rows[part], values[part].astype(np.float32), scales[part])
            self._require(found == checks[part])
        return values, scales

    def search(
        self, query: np.ndarray, count: int, top: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the rows with the highest cosine similarity to a query.

        Args:
            query: Vector of unit length, (D,) float32.
            count: Number of rows to scan, from row 0.
            top: Maximum number of results, at least 1.
            allowed: Whether each row may be found, (count,) bool. Default: all rows.

        Returns:
            Row numbers, (K,) int64, and cosine similarities, (K,) float32; highest first, and of equal ones the lower
            row first.

        Raises:
            ValueError: A row that may be found is missing or damaged.
        """
        scores, is_sound = np.empty(count, np.float32), np.empty(count, bool)
        for rows, values, scales, found in self._blocks(count):
            scores[rows] = values @ query * scales
            is_sound[rows] = found
        self._require(is_sound if allowed is None else is_sound[allowed])
        if allowed is not None:
            scores[~allowed] = -np.inf
        best = largest(scores, top)
        return best, scores[best]

    def lost_rows(self, count: int) -> np.ndarray:
        """Rows below a count that are missing or damaged, or that were never written, (N,) int64.

        Short files become long enough. The new rows are zeros, which count as damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._mapped = [column[:0] for column in self._mapped]
        for path, dtype in self._types.items():
            with path.open("ab") as file:
                if file.tell() < count * dtype.itemsize:
                    file.truncate(count * dtype.itemsize)
                    os.fsync(file.fileno())
        is_sound = np.empty(count, bool)
        for rows, _, _, found in self._blocks(count):
            is_sound[rows] = found
        return np.flatnonzero(~is_sound)

    def _checksums(self, rows: np.ndarray, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Checksums of rows, (N,) uint32; `values` are the stored ones as float32."""
        sums = (values @ self._weights).astype(np.int64)
        return (sums ^ (rows * MULTIPLIER) ^ self.key).astype(np.uint32) ^ scales.view(np.uint32)

    def _require(self, is_sound: np.ndarray):
        """Refuse to answer from damaged rows."""
        if damaged := np.count_nonzero(~is_sound):
            raise ValueError(
                f"index: {damaged:,} vectors in {str(self.folder)!r} are damaged. Embed them again: dcclip index."
            )

    def _map(self, rows: int) -> list[np.ndarray]:
        """Memory maps of the first rows of each file."""
        if len(self._mapped[0]) < rows:
            sizes = {path: path.stat().st_size if path.exists() else 0 for path in self._types}
            stored = min(size // self._types[path].itemsize for path, size in sizes.items())
            if stored < rows:
                raise ValueError(
                    f"index: {str(self.folder)!r} has {stored} vectors, expected {rows}. Repair it: dcclip index."
                )
            maps = (
                np.memmap(path, dtype, "r", shape=(stored,)) for path, dtype in self._types.items()
            )
            self._mapped = [np.asarray(each) for each in maps]
        return [column[:rows] for column in self._mapped]

    def _blocks(self, count: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """Row numbers, values as float32 (N, D), scales (N,), and whether rows are sound (N,), of each block."""
        codes, scales, checks = self._map(count)
        block = np.empty((BLOCK_ROWS, self.dimension), np.float32)
        for start in range(0, count, BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, count))
            values = block[: rows.stop - start]
            np.copyto(values, codes[rows])
            found = (
                self._checksums(np.arange(start, rows.stop), values, scales[rows]) == checks[rows]
            )
            yield rows, values, scales[rows], found


def _write_rows(path: Path, rows: np.ndarray, values: np.ndarray):
    """Write rows of a file in place. Ordinary writes report a full disk as an error; a memory map would be killed."""
    size = values[0].nbytes
    with path.open("r+b" if path.exists() else "w+b", buffering=0) as file:
        starts = np.flatnonzero(
            np.diff(rows, prepend=rows[0] - 2) != 1
        )  # a run of successive rows is one write
        for begin, end in zip(starts, [*starts[1:], len(rows)], strict=True):
            file.seek(int(rows[begin]) * size)
            remaining = values[begin:end].data.cast("B")
            while remaining:
                remaining = remaining[file.write(remaining) :]
        os.fsync(file.fileno())


def largest(scores: np.ndarray, top: int) -> np.ndarray:
    """Positions of the `top` largest finite scores (N,), largest first; of equal ones the lower position first."""
    candidates = np.arange(len(scores))
    if top < len(scores):
        candidates = np.flatnonzero(scores >= np.partition(scores, -top)[-top])
    order = candidates[np.argsort(-scores[candidates], kind="stable")][:top]
    return order[np.isfinite(scores[order])]
