"""Checks of one image, its perceptual hash and its colour thumbnail."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image as PILImage
from PIL import ImageStat

from modeling_dcclip.image_dcclip import DecompressionBomb, ImageError, open_image
from training.data.images import encoded_bytes
from training.prepare.curate.options import CurateOptions

HASH_EDGE = 8
GREY_EDGE = 32
HASH_MARGIN = 0.05
COLOUR_EDGE = 4
NUM_COLOURS = 3 * COLOUR_EDGE**2
# the 8 lowest frequencies of a cosine transform (DCT-II) of 32 values
_COSINES = np.cos(np.pi * np.outer(np.arange(HASH_EDGE), 2 * np.arange(GREY_EDGE) + 1) / (2 * GREY_EDGE))


@dataclass(frozen=True)
class ExaminedImage:
    """The result of the image checks.

    Args:
        cause: Reason to drop the image, a key of `IMAGE_CAUSES`; None for a usable image.
        hash: Perceptual hash of 64 bits; 0 for a dropped image.
        colours: (48,) uint8, RGB thumbnail of 4 x 4 pixels; zeros for a dropped image.
    """

    cause: str | None
    hash: int = 0
    colours: np.ndarray = field(default_factory=lambda: np.zeros(NUM_COLOURS, np.uint8))


def examine_image(cell: dict | str | None, options: CurateOptions) -> ExaminedImage:
    """Check one image and compute its hash and thumbnail.

    Args:
        cell: Undecoded image as `datasets` stores it, `{"bytes": ..., "path": ...}`; None for a missing image,
            and the cause for one that may not be opened.
        options: Thresholds of the filters.
    """
    if isinstance(cell, str):
        return ExaminedImage(cell)
    if cell is None or (cell.get("bytes") is None and not cell.get("path")):
        return ExaminedImage("no image")
    try:
        image = open_image(encoded_bytes(cell), max_pixels=options.max_pixels)
    except DecompressionBomb:
        return ExaminedImage("decompression bomb")
    except (OSError, ImageError):
        return ExaminedImage("image does not decode")
    if cause := _fault(image, options):
        return ExaminedImage(cause)
    return ExaminedImage(None, perceptual_hash(image), colours(image))


def _fault(image: PILImage.Image, options: CurateOptions) -> str | None:
    shorter, longer = sorted(image.size)
    if options.min_edge is not None and shorter < options.min_edge:
        return "image too small"
    if options.max_aspect_ratio is not None and longer / shorter > options.max_aspect_ratio:
        return "extreme aspect ratio"
    if options.min_contrast is not None and ImageStat.Stat(image.convert("L")).stddev[0] < options.min_contrast:
        return "blank image"
    return None


def perceptual_hash(image: PILImage.Image) -> int:
    """A 64-bit hash that is robust to scaling, recompression and small changes in brightness.

    Each bit records whether one of the 8 x 8 lowest frequencies of the greyscale image exceeds their median by a
    margin. On flat graphics this separates images better than dHash, whose brightness gradients are mostly zero there.

    Source: pHash as in Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), ch. 3.2.1;
    the margin is our addition.
    """
    grey = np.asarray(image.convert("L").resize((GREY_EDGE, GREY_EDGE), PILImage.Resampling.LANCZOS), np.float64)
    frequencies = (_COSINES @ grey @ _COSINES.T).ravel()
    others = frequencies[1:]  # without the first, which is the mean brightness and an outlier
    # a symmetric image has half of its frequencies at zero, and so the median: without a margin, noise sets these bits
    bits = frequencies > np.median(others) + HASH_MARGIN * np.abs(others).mean()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def colours(image: PILImage.Image) -> np.ndarray:
    """RGB thumbnail of 4 x 4 pixels, (48,) uint8.

    It separates a red shape from the same shape in green; the perceptual hash does not.
    """
    return np.asarray(image.resize((COLOUR_EDGE, COLOUR_EDGE), PILImage.Resampling.BOX), np.uint8).ravel()
