"""Images without captions that stay in memory for a whole run, and variations of them."""

import torch
from torch import Tensor

from training.config import AugmentConfig, DataConfig
from training.data.images import Augment, decode_images, require_allowed, rules_for
from training.data.reader import evenly_spaced_rows, load_source, require_columns
from training.utils.rng import keyed_uniform

MAX_IMAGES = 2048  # 300 MB at 224 pixels
ROWS_AT_ONCE = 64
# changes that photographs of other cameras, screens and web pages show
VARIETY = AugmentConfig(
    zoom=0.15,
    rotate=15,
    stretch=0.1,
    shift=0.05,
    brightness=0.15,
    contrast=0.4,
    saturation=0.6,
    tint=0.05,
    blur=0.1,
    downscale=0.25,
    background=124,
)
MIX_STREAM = 0x6D6978  # separates these random numbers from the draws of the views


def load_images(source: str, config: DataConfig, size: int, squash: bool = False) -> Tensor:
    """Decode the images of a source, or `MAX_IMAGES` evenly spaced ones of more.

    Args:
        source: Any source that `load_source` accepts.
        config: Name of the image column, and which images are opened that rows name by path.
        size: Edge of the images in pixels.
        squash: Whether images are resized to the square without a crop.

    Returns:
        (N, 3, size, size) uint8.

    Raises:
        ValueError: The source cannot be loaded, has no images, or has one that cannot be used.
    """
    column, rows = config.image_column, load_source(source, field="photos")
    rows = require_columns(
        rows, [column], source, "Name it under data.image_column.", field="photos"
    )
    numbers = evenly_spaced_rows(len(rows), MAX_IMAGES)
    rules = rules_for(source, config.allow_paths)
    rows = require_allowed(rows.select(numbers), column, rules, source, "photos")
    images = torch.empty(len(rows), 3, size, size, dtype=torch.uint8)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        cells = rows[start : start + ROWS_AT_ONCE][column]
        for row, image in enumerate(decode_images(cells, size, squash), start):
            if isinstance(image, str):
                raise ValueError(
                    f"photos: row {numbers[row]} of {source!r}: {image}. Fix or remove the row."
                )
            images[row] = image
    return images


def vary_images(images: Tensor, seed: int = 0) -> Tensor:
    """Recolor, rotate and reduce images, and mix half of them with the next one.

    Crops of a few photographs teach more than the photographs show if they are mixed (arXiv 2112.00725).

    Args:
        images: (N, 3, S, S) uint8, neighbors unlike each other.
        seed: Seed of the changes.

    Returns:
        (N, 3, S, S) uint8.
    """
    augment, parts = Augment(VARIETY, seed), []
    for numbers in torch.arange(len(images)).split(ROWS_AT_ONCE):
        views = augment(images[numbers], augment.views(numbers, torch.zeros_like(numbers)))
        draws = torch.from_numpy(
            keyed_uniform(seed ^ MIX_STREAM, numbers.numpy(), 0, num=6)
        ).float()
        parts.append(mix_images(views, draws, 0.5).round().to(torch.uint8))
    return torch.cat(parts)


def mix_images(images: Tensor, draws: Tensor, share: float) -> Tensor:
    """Mix images with the next one of the batch, half of them by mixup and half by CutMix.

    Args:
        images: (B, 3, S, S) float.
        draws: (B, 6) uniform numbers in 0..1: whether and how an image is mixed, the amount, and the aspect ratio, row
            and column of the rectangle.
        share: Probability that an image is mixed, 0..1.

    Returns:
        (B, 3, S, S). Mixup (arXiv 1710.09412) blends two images with the amount as weight. CutMix (arXiv 1905.04899)
        replaces a rectangle whose area is the amount, before it is cut at the border; its edges differ by a factor
        of at most 2.
    """
    chosen, kind, amount, aspect, row, column = draws.T
    size = images.shape[-1]
    pixels = (torch.arange(size) + 0.5) / size
    ratio = torch.exp2(2 * aspect - 1)  # of height to width, 1/2 to 2
    rows = (pixels - row[:, None]).abs() <= (amount * ratio).sqrt()[:, None] / 2  # (B, S)
    columns = (pixels - column[:, None]).abs() <= (amount / ratio).sqrt()[:, None] / 2
    is_inside = rows[:, :, None] & columns[:, None]  # (B, S, S)
    weight = torch.where((kind < 0.5)[:, None, None], amount[:, None, None], is_inside.float())
    weight = weight * (chosen < share)[:, None, None]
    return torch.lerp(images, images.roll(-1, 0), weight[:, None])
