"""General images that stay in memory for a whole run, and variations of them."""

import torch
from torch import Tensor

from training.config import AugmentConfig, DataConfig
from training.data.images import Augment, decode_images
from training.data.reader import evenly_spaced_rows, load_source, require_allowed
from training.general_images.photos import photo_crops
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


def load_images(source: str | None, config: DataConfig, size: int, squash: bool = False) -> Tensor:
    """Decode the images of a source, or `MAX_IMAGES` evenly spaced ones of more.

    Args:
        source: Any source that `load_source` accepts. Default: varied crops of the photographs in photos.py.
        config: Name of the image column, and which images are opened that rows name by path.
        size: Edge of the images in pixels.
        squash: Whether images are resized to the square without a crop.

    Returns:
        (N, 3, size, size) uint8.

    Raises:
        ValueError: The source cannot be loaded, has no images, or has one that cannot be used.
    """
    if source is None:
        return vary_images(photo_crops(size))
    column = config.image_column
    rows = load_source(source, field="photos")
    rows = require_allowed(rows, source, column, allow_paths=config.allow_paths, field="photos")
    numbers = evenly_spaced_rows(len(rows), MAX_IMAGES)
    rows = rows.select(numbers)
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
    """Recolor, rotate and reduce images, and blend half of them with the next one (mixup, arXiv 1710.09412).

    Crops of a few photographs teach more than the photographs show if they are mixed (arXiv 2112.00725).

    Args:
        images: (N, 3, S, S) uint8, neighbors unlike each other.
        seed: Seed of the changes.

    Returns:
        (N, 3, S, S) uint8.
    """
    augment = Augment(VARIETY, seed)
    parts = []
    for numbers in torch.arange(len(images)).split(ROWS_AT_ONCE):
        views = augment(images[numbers], augment.views(numbers, torch.zeros_like(numbers)))
        draws = torch.from_numpy(keyed_uniform(seed ^ MIX_STREAM, numbers.numpy(), 0, num=2))
        weight = torch.where(draws[:, 0] < 0.5, draws[:, 1], 0.0).float()[:, None, None, None]
        parts.append(views.lerp(views.roll(-1, 0), weight).round().to(torch.uint8))
    return torch.cat(parts)
