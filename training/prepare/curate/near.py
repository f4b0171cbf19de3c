"""Near-duplicates without comparing all pairs: only rows that share a band of their hash are compared.

Hamming distance: of d + 1 bands, two hashes that differ in at most d bits share one, so that no pair is missed.
Shared n-grams: MinHash (Broder, 1997) with bands as in Leskovec et al., "Mining of Massive Datasets", ch. 3.4; at the
threshold at most one pair in a hundred is missed, and what shares a band is compared exactly.
"""

import hashlib
import math
import re
import unicodedata
import zlib
from collections.abc import Callable
from itertools import pairwise

import numpy as np

HASH_BITS = 64
CAPTION_BANDS = 16
MAX_BAND_LENGTH = 8
MISSED = 0.01


def match_earlier(
    identity: np.ndarray,
    bands: np.ndarray,
    is_near: Callable[[int, np.ndarray], np.ndarray],
    num_reference: int = 0,
) -> np.ndarray:
    """For each row the first earlier row that it is near to; rows that match an earlier one are no match for others.

    An equal row comes before a near one.

    Args:
        identity: (N,) uint64, equal for equal rows, which are not compared again.
        bands: (N, B) unsigned integers; rows are compared where one column is equal.
        is_near: (row, rows (K,)) to (K,) bool.
        num_reference: compare with the first so many rows alone; 0 compares with all.

    Returns:
        (N,) int64; a row without a match has itself.
    """
    _, first, inverse = np.unique(identity, return_index=True, return_inverse=True)
    distinct = np.sort(first)  # the first of equal rows stands for all
    groups = [_Groups(column[distinct]) for column in bands.T]
    match = np.arange(len(distinct))
    for row in np.flatnonzero(np.any([group.start < group.position for group in groups], axis=0)).tolist():
        earlier = np.unique(np.concatenate([group.earlier(row) for group in groups]))
        if num_reference:
            earlier = earlier[distinct[earlier] < num_reference] if distinct[row] >= num_reference else earlier[:0]
        else:
            earlier = earlier[match[earlier] == earlier]
        near = earlier[is_near(int(distinct[row]), distinct[earlier])] if len(earlier) else earlier
        if len(near):
            match[row] = near[0]
    matched = distinct[match[np.searchsorted(distinct, first[inverse])]]
    rows = np.arange(len(identity))
    return np.where(matched < num_reference, matched, rows) if num_reference else matched


class _Groups:
    """Rows by their value in one column.

    Args:
        column: (N,).
    """

    def __init__(self, column: np.ndarray):
        self.order = np.argsort(column, kind="stable")  # groups lie together, rows ascend within them
        values = column[self.order]
        starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]]) if len(values) else np.zeros(0, np.int64)
        self.position = np.empty(len(column), np.int64)
        self.position[self.order] = np.arange(len(column))
        lengths = np.diff(np.r_[starts, len(column)])
        self.start = np.repeat(starts, lengths)[self.position]

    def earlier(self, row: int) -> np.ndarray:
        """Earlier rows with the same value, ascending."""
        return self.order[self.start[row] : self.position[row]]


def hamming_bands(hashes: np.ndarray, distance: int) -> np.ndarray:
    """(N,) uint64 hashes to (N, distance + 1) uint64 bands, of which two hashes within the distance share one."""
    edges = np.linspace(0, HASH_BITS, distance + 2).astype(np.uint64)
    if distance == 0:
        return hashes[:, None]
    return np.stack(
        [(hashes >> low) & ((np.uint64(1) << (high - low)) - np.uint64(1)) for low, high in pairwise(edges)],
        axis=1,
    )


def hamming_distance(one: np.uint64, others: np.ndarray) -> np.ndarray:
    """Bits by which (K,) uint64 hashes differ from one."""
    return np.bitwise_count(others ^ one)


def normalise(text: str) -> str:
    """Compatibility form, case folded, words with single spaces between; punctuation is left out."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def shingles(text: str, size: int) -> set[str]:
    """The character n-grams of a normalised text; a shorter text is its own."""
    return {text[start : start + size] for start in range(max(1, len(text) - size + 1))}


def jaccard(first: set[str], second: set[str]) -> float:
    """Share of what two sets have that both have, 0..1."""
    return len(first & second) / len(first | second)


def text_identity(text: str) -> int:
    """64 bits, equal for equal texts."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class MinHash:
    """Bands of texts: texts whose n-grams overlap by the threshold share at least one with probability 0.99.

    Args:
        threshold: Jaccard similarity, 0.3..1.
        size: n of the n-grams.
    """

    def __init__(self, threshold: float, size: int):
        # each hash is shared with the probability of the similarity, a band with all of its hashes
        share = 1 - MISSED ** (1 / CAPTION_BANDS)
        length = MAX_BAND_LENGTH if threshold == 1 else int(math.log(share) / math.log(threshold))
        self.length, self.size = min(max(length, 1), MAX_BAND_LENGTH), size
        num = CAPTION_BANDS * self.length
        # fixed numbers that do not depend on any library's version
        drawn = np.frombuffer(hashlib.shake_256(b"minhash").digest(24 * num), "<u8").reshape(3, num)
        self._factors, self._offsets, self._mixers = drawn[0] | np.uint64(1), drawn[1], drawn[2] | np.uint64(1)

    def bands(self, text: str) -> np.ndarray:
        """(16,) uint32 of a normalised text."""
        values = np.array([zlib.crc32(part.encode("utf-8", "surrogatepass")) for part in shingles(text, self.size)])
        hashes = self._factors[:, None] * values.astype(np.uint64) + self._offsets[:, None]  # modulo 2**64
        signature = (hashes >> np.uint64(32)).min(axis=1) * self._mixers
        return (signature.reshape(CAPTION_BANDS, self.length).sum(axis=1) >> np.uint64(32)).astype(np.uint32)
