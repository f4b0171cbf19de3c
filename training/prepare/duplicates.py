"""Checks, hashes and near-duplicate search of images, without comparing all pairs.

Only rows that share a band of their hash are compared. Two 64-bit hashes that differ in at most d bits agree in at
least one of d + 1 bands, so no pair is missed.
"""

import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from PIL import Image as PILImage
from PIL import ImageStat

from training.data.images import Cell, read_image

TOO_SMALL, EXTREME_ASPECT, BLANK = "image too small", "extreme aspect ratio", "blank image"
MAX_IMAGE_DISTANCE = 4  # differing hash bits of near-duplicates
MAX_COLOUR_DISTANCE = 4.0  # mean difference of their 4 x 4 thumbnails, 0..255
HASH_BITS, HASH_EDGE, GREY_EDGE, HASH_MARGIN, COLOUR_EDGE = 64, 8, 32, 0.05, 4
NUM_COLOURS = 3 * COLOUR_EDGE**2
# the 8 lowest frequencies of a cosine transform (DCT-II) of 32 values
_COSINES = np.cos(
    np.pi * np.outer(np.arange(HASH_EDGE), 2 * np.arange(GREY_EDGE) + 1) / (2 * GREY_EDGE)
)


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
    cell: Cell | str | None,
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
    image = read_image(cell)
    if isinstance(image, str):
        return ExaminedImage(image)
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
    grey = np.asarray(
        image.convert("L").resize((GREY_EDGE, GREY_EDGE), PILImage.Resampling.LANCZOS), np.float64
    )
    frequencies = (_COSINES @ grey @ _COSINES.T).ravel()
    others = frequencies[1:]  # without the first, which is the mean brightness and an outlier
    bits = frequencies > np.median(others) + HASH_MARGIN * np.abs(others).mean()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def colours(image: PILImage.Image) -> np.ndarray:
    """RGB thumbnail of 4 x 4 pixels, (48,) uint8. It separates a red shape from the same shape in green."""
    return np.asarray(
        image.resize((COLOUR_EDGE, COLOUR_EDGE), PILImage.Resampling.BOX), np.uint8
    ).ravel()


def match_images(
    hashes: np.ndarray,
    colours: np.ndarray,
    max_distance: int,
    max_colour_distance: float,
    num_reference: int = 0,
) -> np.ndarray:
    """Match each image with the first earlier image that it is a near-duplicate of.

    An image that matches an earlier one is not a candidate for later ones.

    Args:
        hashes: Perceptual hashes, (N,) uint64.
        colours: Colour thumbnails, (N, 48) uint8.
        max_distance: Largest number of differing hash bits, 0..15 of 64.
        max_colour_distance: Largest mean difference of the thumbnails, 0..255.
        num_reference: Number of leading images that alone serve as candidates; 0 uses all images.

    Returns:
        (N,) int64, the matched image; the image itself if it has no match.
    """
    match = np.arange(len(hashes))
    images_by_band: dict[tuple[int, int], list[int]] = defaultdict(list)
    for image, values in enumerate(hamming_bands(hashes, max_distance).tolist()):
        keys = list(enumerate(values))
        if image >= num_reference:
            others = np.array(
                sorted({other for key in keys for other in images_by_band.get(key, ())}), np.int64
            )
            difference = np.abs(colours[others].astype(np.int16) - colours[image]).mean(1)
            near = np.bitwise_count(hashes[others] ^ hashes[image]) <= max_distance
            near = others[near & (difference <= max_colour_distance)]
            if len(near):
                match[image] = near[0]
        if image < num_reference or (not num_reference and match[image] == image):
            for key in keys:
                images_by_band[key].append(image)
    return match


def hamming_bands(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Split (N,) uint64 hashes into (N, distance + 1) bands. Hashes within the distance, 0..15, agree in a band."""
    if distance == 0:
        return hashes[:, None]
    edges = np.linspace(0, HASH_BITS, distance + 2).astype(np.uint64)
    bands = [
        (hashes >> low) & ((np.uint64(1) << (high - low)) - np.uint64(1))
        for low, high in pairwise(edges)
    ]
    return np.stack(bands, axis=1)


def normalise(text: str) -> str:
    """The text in NFKC, case-folded, without punctuation, with single spaces between words."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
