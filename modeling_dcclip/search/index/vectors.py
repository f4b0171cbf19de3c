"""Embeddings of an index: int8 vectors in segments of its catalog, scanned exactly in memory.

A segment is one entry of the table `segments`: `SEGMENT_ROWS` vectors divided by their scales, (R, D) int8, then the
scales, (R,) float32, with one checksum. SQLite commits it together with the files that refer to its rows. The catalog
decides which rows are valid.
"""

import zlib

import numpy as np

from modeling_dcclip.search.index.catalog import Catalog

SEGMENT_ROWS = 512
BLOCK_ROWS = 2048  # converted to float32 at once: 256 dimensions of them fit the second-level cache


class VectorStore:
    """Vectors of unit length by row number.

    Args:
        catalog: Catalog that holds them.
        dimension: Number of dimensions D, at least 1.
    """

    def __init__(self, catalog: Catalog, dimension: int):
        self.catalog = catalog
        self.dimension = dimension
        self._checksums: dict[int, int] = {}  # checksums of the segments in memory
        self._codes = np.zeros((0, dimension), np.int8)
        self._scales = np.zeros(0, np.float32)

    def write(self, rows: np.ndarray, vectors: np.ndarray):
        """Write vectors. Call it within `catalog.writing()`.

        Args:
            rows: Row numbers, (N,) int64, in any order.
            vectors: Finite vectors of unit length, (N, D) float32.
        """
        tiny = np.finfo(np.float32).tiny
        scales = (np.maximum(np.abs(vectors).max(1), tiny) / 127).astype(np.float32)
        codes = np.rint(vectors / scales[:, None]).astype(np.int8)
        numbers, places = np.divmod(rows, SEGMENT_ROWS)
        for number in np.unique(numbers).tolist():
            stored_codes, stored_scales = map(np.copy, self._segment(number))
            is_in = numbers == number
            stored_codes[places[is_in]] = codes[is_in]
            stored_scales[places[is_in]] = scales[is_in]
            content = stored_codes.tobytes() + stored_scales.tobytes()
            self.catalog.execute(
                "INSERT OR REPLACE INTO segments VALUES (?, ?, ?)",
                number,
                zlib.crc32(content, number),
                content,
            )

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Read vectors.

        Args:
            rows: Row numbers, (N,) int64.

        Returns:
            (N, D) float32, of unit length up to rounding.

        Raises:
            DamagedIndexError: Vectors are damaged.
        """
        self._load()
        return self._codes[rows].astype(np.float32) * self._scales[rows, None]

    def stored_segment(self, number: int) -> np.ndarray:
        """The vectors of a segment as they are on the disk, (SEGMENT_ROWS, D) float32; zeros where there are none.

        An index that is only written is not loaded.
        """
        codes, scales = self._segment(number)
        return codes.astype(np.float32) * scales[:, None]

    def scores(self, query: np.ndarray, count: int) -> np.ndarray:
        """Cosine similarities of the first rows to a query.

        Args:
            query: Vector of unit length, (D,) float32.
            count: Number of rows.

        Returns:
            (count,) float32.

        Raises:
            DamagedIndexError: A segment is damaged.
        """
        self._load()
        scores = np.empty(count, np.float32)
        block = np.empty((BLOCK_ROWS, self.dimension), np.float32)
        for start in range(0, count, BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, count))
            values = block[: rows.stop - start]
            np.copyto(values, self._codes[rows])
            scores[rows] = values @ query * self._scales[rows]
        return scores

    def verify(self):
        """Check all segments.

        Raises:
            DamagedIndexError: One is damaged.
        """
        for (number,) in self.catalog.execute("SELECT number FROM segments"):
            self._segment(number)

    def _load(self):
        """Bring the vectors in memory up to date with the catalog."""
        current = dict(self.catalog.execute("SELECT number, checksum FROM segments"))
        if current == self._checksums:
            return
        rows = (max(current, default=-1) + 1) * SEGMENT_ROWS
        codes = np.zeros((rows, self.dimension), np.int8)
        scales = np.zeros(rows, np.float32)
        kept = min(rows, len(self._scales))
        codes[:kept] = self._codes[:kept]
        scales[:kept] = self._scales[:kept]
        for number, checksum in current.items():
            if checksum != self._checksums.get(number):
                part = slice(number * SEGMENT_ROWS, (number + 1) * SEGMENT_ROWS)
                codes[part], scales[part] = self._segment(number)
        self._codes = codes
        self._scales = scales
        self._checksums = current

    def _segment(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes (R, D) and scales (R,) of a segment; zeros if it is new."""
        size = SEGMENT_ROWS * self.dimension
        content = bytes(size + SEGMENT_ROWS * 4)
        query = "SELECT vectors, checksum FROM segments WHERE number = ?"
        for stored, checksum in self.catalog.execute(query, number):
            if len(stored) != len(content) or checksum != zlib.crc32(stored, number):
                raise self.catalog.damage("vectors have a wrong checksum")
            content = stored
        codes = np.frombuffer(content, np.int8, size).reshape(SEGMENT_ROWS, self.dimension)
        return codes, np.frombuffer(content, np.float32, offset=size)


def best_of_each(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Scores (N,) with -inf in place of all but the largest of each group; ties go to the lower position."""
    shared = np.flatnonzero(np.bincount(groups)[groups] > 1)
    shared = shared[np.lexsort((-scores[shared], groups[shared]))]
    is_next = groups[shared[1:]] == groups[shared[:-1]]
    best = scores.copy()
    best[shared[1:][is_next]] = -np.inf
    return best


def largest(scores: np.ndarray, top: int) -> np.ndarray:
    """Positions of the `top` largest finite scores (N,), largest first; ties go to the lower position."""
    candidates = np.arange(len(scores))
    if top < len(scores):
        candidates = np.flatnonzero(scores >= np.partition(scores, -top)[-top])
    order = candidates[np.argsort(-scores[candidates], kind="stable")][:top]
    return order[np.isfinite(scores[order])]
