"""Checks, hashes and near-duplicate search of images and texts, without comparing all pairs.

Only rows that share a band of their hash are compared. Two 64-bit hashes that differ in at most d bits agree in at
least one of d + 1 bands, so no pair of images is missed. Texts use MinHash (Broder, 1997) with bands as in Leskovec et
al., "Mining of Massive Datasets", ch. 3.4: at the threshold at most 1 % of the pairs are missed.
"""

import hashlib
import math
import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from PIL import Image as PILImage
from PIL import ImageStat

from modeling_dcclip.image_dcclip import DecompressionBomb, ImageError, open_image
from training.data.images import encoded_bytes

NO_IMAGE, BOMB, UNDECODABLE = "no image", "decompression bomb", "image does not decode"
TOO_SMALL, EXTREME_ASPECT, BLANK = "image too small", "extreme aspect ratio", "blank image"
MAX_IMAGE_DISTANCE = 4  # differing hash bits of near-duplicates
MAX_COLOUR_DISTANCE = 4.0  # mean difference of their 4 x 4 thumbnails, 0..255
HASH_BITS, HASH_EDGE, GREY_EDGE, HASH_MARGIN, COLOUR_EDGE = 64, 8, 32, 0.05, 4
NUM_COLOURS = 3 * COLOUR_EDGE**2
TEXT_BANDS, MAX_BAND_LENGTH, MISS_RATE = 16, 8, 0.01
# the 8 lowest frequencies of a cosine transform (DCT-II) of 32 values
_COSINES = np.cos(np.pi * np.outer(np.arange(HASH_EDGE), 2 * np.arange(GREY_EDGE) + 1) / (2 * GREY_EDGE))


@dataclass(frozen=True)
class ExaminedImage:
    """The result of the checks of one image.

    Args:
        cause: Reason to drop the image; None for a usable image.
        hash: Perceptual hash of 64 bits; 0 for a dropped image.
        colours: (48,) uint8, RGB thumbnail of 4 x 4 pixels; zeros for a dropped image.
    """

    cause: str | None
    hash: int = 0
    colours: np.ndarray = field(default_factory=lambda: np.zeros(NUM_COLOURS, np.uint8))


def examine_image(
    cell: dict | str | None,
    min_edge: int | None = None,
    max_aspect_ratio: float | None = None,
    min_contrast: float | None = None,
) -> ExaminedImage:
    """Check one image and compute its hash and thumbnail. A threshold of None switches its check off.

    Args:
        cell: Undecoded image as `datasets` stores it, `{"bytes": ..., "path": ...}`; None for a missing image, and
            the cause for one that may not be opened.
        min_edge: Smallest length of the shorter side, in pixels.
        max_aspect_ratio: Largest ratio of the longer to the shorter side.
        min_contrast: Smallest standard deviation of the brightness, 0..127.
    """
    if isinstance(cell, str):
        return ExaminedImage(cell)
    if cell is None or (cell.get("bytes") is None and not cell.get("path")):
        return ExaminedImage(NO_IMAGE)
    try:
        image = open_image(encoded_bytes(cell))
    except DecompressionBomb:
        return ExaminedImage(BOMB)
    except (OSError, ImageError):
        return ExaminedImage(UNDECODABLE)
    shorter, longer = sorted(image.size)
    if min_edge is not None and shorter < min_edge:
        return ExaminedImage(TOO_SMALL)
    if max_aspect_ratio is not None and longer / shorter > max_aspect_ratio:
        return ExaminedImage(EXTREME_ASPECT)
    if min_contrast is not None and ImageStat.Stat(image.convert("L")).stddev[0] < min_contrast:
        return ExaminedImage(BLANK)
    return ExaminedImage(None, perceptual_hash(image), colours(image))


def perceptual_hash(image: PILImage.Image) -> int:
    """A 64-bit hash that is robust to scaling, recompression and small changes in brightness.

    Each bit records whether one of the 8 x 8 lowest frequencies of the greyscale image exceeds their median by a
    margin. Without it, half of the bits of a flat or symmetric image are noise: `imagehash.phash` differs in up to 30
    bits between an emoji and its JPEG copy, this hash in up to 3.

    Source: pHash as in Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), ch. 3.2.1;
    the margin is our addition.
    """
    grey = np.asarray(image.convert("L").resize((GREY_EDGE, GREY_EDGE), PILImage.Resampling.LANCZOS), np.float64)
    frequencies = (_COSINES @ grey @ _COSINES.T).ravel()
    others = frequencies[1:]  # without the first, which is the mean brightness and an outlier
    bits = frequencies > np.median(others) + HASH_MARGIN * np.abs(others).mean()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def colours(image: PILImage.Image) -> np.ndarray:
    """RGB thumbnail of 4 x 4 pixels, (48,) uint8. It separates a red shape from the same shape in green."""
    return np.asarray(image.resize((COLOUR_EDGE, COLOUR_EDGE), PILImage.Resampling.BOX), np.uint8).ravel()


def match_earlier(
    bands: np.ndarray, is_near: Callable[[int, np.ndarray], np.ndarray], num_reference: int = 0
) -> np.ndarray:
    """Match each row with the first earlier row that it is a near-duplicate of.

    A row that matches an earlier row is not a candidate for later rows.

    Args:
        bands: (N, B) unsigned integers; two rows are compared if they agree in at least one column.
        is_near: Function from a row and K other rows, (K,) int64, to (K,) bool.
        num_reference: Number of leading rows that alone serve as candidates; 0 uses all rows.

    Returns:
        (N,) int64, the matched row; the row itself if it has no match.
    """
    match = np.arange(len(bands))
    rows_by_band: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, values in enumerate(bands.tolist()):
        keys = list(enumerate(values))
        if row >= num_reference:
            earlier = np.array(sorted({other for key in keys for other in rows_by_band.get(key, ())}), np.int64)
            near = earlier[is_near(row, earlier)] if len(earlier) else earlier
            if len(near):
                match[row] = near[0]
        if row < num_reference or (not num_reference and match[row] == row):
            for key in keys:
                rows_by_band[key].append(row)
    return match


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
        num_reference: Number of leading images that alone serve as candidates; 0 uses all images.

    Returns:
        (N,) int64, the matched image; the image itself if it has no match.
    """

    def is_near(row: int, others: np.ndarray) -> np.ndarray:
        difference = np.abs(colours[others].astype(np.int16) - colours[row]).mean(1)
        return (np.bitwise_count(hashes[others] ^ hashes[row]) <= max_distance) & (difference <= max_colour_distance)

    return match_earlier(hamming_bands(hashes, max_distance), is_near, num_reference)


def hamming_bands(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Split (N,) uint64 hashes into (N, distance + 1) bands. Hashes within the distance, 0..15, agree in a band."""
    if distance == 0:
        return hashes[:, None]
    edges = np.linspace(0, HASH_BITS, distance + 2).astype(np.uint64)
    bands = [(hashes >> low) & ((np.uint64(1) << (high - low)) - np.uint64(1)) for low, high in pairwise(edges)]
    return np.stack(bands, axis=1)


def normalise(text: str) -> str:
    """The text in NFKC, case-folded, without punctuation, with single spaces between words."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def shingles(text: str, size: int) -> set[str]:
    """Character n-grams of a normalised text. A text shorter than n is its own only n-gram."""
    return {text[start : start + size] for start in range(max(1, len(text) - size + 1))}


def jaccard(first: set[str], second: set[str]) -> float:
    """Jaccard similarity of two sets that are not empty, 0..1."""
    return len(first & second) / len(first | second)


class MinHash:
    """Computes MinHash bands. Two texts at the threshold share at least one band with probability 0.99.

    Args:
        threshold: Jaccard similarity of the n-grams, 0.3..1.
        size: Length of the n-grams in characters.
    """

    def __init__(self, threshold: float, size: int):
        # two texts share a hash with the probability of their similarity, and a band if they share all of its hashes
        share = 1 - MISS_RATE ** (1 / TEXT_BANDS)
        length = MAX_BAND_LENGTH if threshold == 1 else int(math.log(share) / math.log(threshold))
        self.length, self.size = min(max(length, 1), MAX_BAND_LENGTH), size
        num = TEXT_BANDS * self.length
        # constants from a hash, so that they do not depend on the version of a random number library
        drawn = np.frombuffer(hashlib.shake_256(b"minhash").digest(24 * num), "<u8").reshape(3, num)
        self._factors, self._offsets, self._mixers = drawn[0] | np.uint64(1), drawn[1], drawn[2] | np.uint64(1)

    def bands(self, text: str) -> np.ndarray:
        """Bands of a normalised text, (16,) uint32."""
        values = np.array([zlib.crc32(part.encode("utf-8", "surrogatepass")) for part in shingles(text, self.size)])
        hashes = self._factors[:, None] * values.astype(np.uint64) + self._offsets[:, None]  # modulo 2**64
        signature = (hashes >> np.uint64(32)).min(axis=1) * self._mixers
        return (signature.reshape(TEXT_BANDS, self.length).sum(axis=1) >> np.uint64(32)).astype(np.uint32)
