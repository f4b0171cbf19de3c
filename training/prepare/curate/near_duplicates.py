"""Near-duplicate search without comparing all pairs: only rows that share a band of their hash are compared.

Hamming distance: two hashes that differ in at most d bits agree in at least one of d + 1 bands, so no pair is missed.
Shared n-grams: MinHash (Broder, 1997) with bands as in Leskovec et al., "Mining of Massive Datasets", ch. 3.4. At the
threshold at most 1 % of the pairs are missed. Rows that share a band are compared exactly.
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
MISS_RATE = 0.01


def match_earlier(
    identity: np.ndarray,
    bands: np.ndarray,
    is_near: Callable[[int, np.ndarray], np.ndarray],
    num_reference: int = 0,
) -> np.ndarray:
    """Match each row with the first earlier row that it is a near-duplicate of.

    A row that matches an earlier row is not a candidate for later rows. An equal row takes precedence over a near one.

    Args:
        identity: (N,) uint64, equal for equal rows; equal rows are not compared again.
        bands: (N, B) unsigned integers; two rows are compared if they agree in at least one column.
        is_near: Function from a row and K other rows, (K,) int64, to (K,) bool.
        num_reference: Number of leading rows that serve as candidates; 0 uses all rows.

    Returns:
        (N,) int64, the matched row; the row itself if it has no match.
    """
    _, first, inverse = np.unique(identity, return_index=True, return_inverse=True)
    distinct = np.sort(first)  # only the first of equal rows is compared
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
    """Rows grouped by their value in one column.

    Args:
        column: (N,) values, one per row.
    """

    def __init__(self, column: np.ndarray):
        self.order = np.argsort(column, kind="stable")  # groups are contiguous, with ascending rows
        values = column[self.order]
        starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]]) if len(values) else np.zeros(0, np.int64)
        self.position = np.empty(len(column), np.int64)
        self.position[self.order] = np.arange(len(column))
        lengths = np.diff(np.r_[starts, len(column)])
        self.start = np.repeat(starts, lengths)[self.position]

    def earlier(self, row: int) -> np.ndarray:
        """Earlier rows with the same value, in ascending order."""
        return self.order[self.start[row] : self.position[row]]


def match_images(
    hashes: np.ndarray,
    colours: np.ndarray,
    max_distance: int,
    max_colour_distance: float,
    num_reference: int = 0,
) -> np.ndarray:
    """Match each image with the first earlier image that it is a near-duplicate of.

    Args:
        hashes: Perceptual hashes, (N,) uint64.
        colours: Colour thumbnails, (N, 48) uint8.
        max_distance: Largest number of differing hash bits, 0..15 of 64.
        max_colour_distance: Largest mean difference of the thumbnails, 0..255.
        num_reference: Number of leading images that serve as candidates; 0 uses all images.

    Returns:
        (N,) int64, the matched image; the image itself if it has no match.
    """

    def is_near(row: int, others: np.ndarray) -> np.ndarray:
        difference = np.abs(colours[others].astype(np.int16) - colours[row]).mean(1)
        return (hamming_distance(hashes[row], hashes[others]) <= max_distance) & (difference <= max_colour_distance)

    keys = np.concatenate([hashes[:, None].view(np.uint8), colours], 1)
    _, identity = np.unique(keys, axis=0, return_inverse=True)
    return match_earlier(identity, hamming_bands(hashes, max_distance), is_near, num_reference)


def hamming_bands(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Split hashes into bands. Two hashes within the distance agree in at least one band.

    Args:
        hashes: (N,) uint64 hashes.
        distance: Hamming distance in bits, 0..15.

    Returns:
        (N, distance + 1) uint64.
    """
    edges = np.linspace(0, HASH_BITS, distance + 2).astype(np.uint64)
    if distance == 0:
        return hashes[:, None]
    return np.stack(
        [(hashes >> low) & ((np.uint64(1) << (high - low)) - np.uint64(1)) for low, high in pairwise(edges)],
        axis=1,
    )


def hamming_distance(one: np.uint64, others: np.ndarray) -> np.ndarray:
    """Number of bits by which hashes differ from one hash, (K,).

    Args:
        one: A hash.
        others: (K,) uint64 hashes.
    """
    return np.bitwise_count(others ^ one)


def normalise(text: str) -> str:
    """The text in NFKC, case-folded, without punctuation, with single spaces between words."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def shingles(text: str, size: int) -> set[str]:
    """Character n-grams of a normalised text. A text shorter than n is its own only n-gram.

    Args:
        text: Normalised text.
        size: Length n in characters.
    """
    return {text[start : start + size] for start in range(max(1, len(text) - size + 1))}


def jaccard(first: set[str], second: set[str]) -> float:
    """Jaccard similarity of two sets, 0..1: size of the intersection over size of the union.

    Args:
        first: First set, not empty.
        second: Second set, not empty.
    """
    return len(first & second) / len(first | second)


def text_identity(text: str) -> int:
    """A 64-bit hash of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class MinHash:
    """Computes MinHash bands. Two texts at the threshold share at least one band with probability 0.99.

    Args:
        threshold: Jaccard similarity of the n-grams, 0.3..1.
        size: Length of the n-grams in characters.
    """

    def __init__(self, threshold: float, size: int):
        # two texts share a hash with the probability of their similarity, and a band if they share all of its hashes
        share = 1 - MISS_RATE ** (1 / CAPTION_BANDS)
        length = MAX_BAND_LENGTH if threshold == 1 else int(math.log(share) / math.log(threshold))
        self.length, self.size = min(max(length, 1), MAX_BAND_LENGTH), size
        num = CAPTION_BANDS * self.length
        # constants from a hash, so that they do not depend on the version of a random number library
        drawn = np.frombuffer(hashlib.shake_256(b"minhash").digest(24 * num), "<u8").reshape(3, num)
        self._factors, self._offsets, self._mixers = drawn[0] | np.uint64(1), drawn[1], drawn[2] | np.uint64(1)

    def bands(self, text: str) -> np.ndarray:
        """Bands of a normalised text, (16,) uint32."""
        values = np.array([zlib.crc32(part.encode("utf-8", "surrogatepass")) for part in shingles(text, self.size)])
        hashes = self._factors[:, None] * values.astype(np.uint64) + self._offsets[:, None]  # modulo 2**64
        signature = (hashes >> np.uint64(32)).min(axis=1) * self._mixers
        return (signature.reshape(CAPTION_BANDS, self.length).sum(axis=1) >> np.uint64(32)).astype(np.uint32)
