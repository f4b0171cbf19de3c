"""Images without captions that stay in memory for a whole run."""

import torch
from torch import Tensor

from training.config import DataConfig
from training.data.images import decode_images
from training.data.named_images import require_allowed, rules_for
from training.data.sources import evenly_spaced_rows, load_source, require_columns

MAX_IMAGES = 2048  # 300 MB at 224 pixels
ROWS_AT_ONCE = 64


def load_images(source: str, config: DataConfig, size: int) -> Tensor:
    """Decode the images of a source, or `MAX_IMAGES` evenly spaced ones of more.

    Args:
        source: Any source that `load_source` accepts.
        config: Name of the image column, and which images are opened that rows name by URL or path.
        size: Edge of the images in pixels.

    Returns:
        (N, 3, size, size) uint8.

    Raises:
        ValueError: The source cannot be loaded, has no images, or has one that cannot be used.
    """
    column, rows = config.image_column, load_source(source, field="photos")
    rows = require_columns(rows, [column], source, "Name it under data.image_column.", field="photos")
    numbers = evenly_spaced_rows(len(rows), MAX_IMAGES)
    rules = rules_for(source, config.allow_urls, config.allow_paths)
    rows = require_allowed(rows.select(numbers), column, rules, source, "photos")
    images = torch.empty(len(rows), 3, size, size, dtype=torch.uint8)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        cells = rows[start : start + ROWS_AT_ONCE][column]
        for row, image in enumerate(decode_images(cells, size), start):
            if isinstance(image, str):
                raise ValueError(f"photos: row {numbers[row]} of {source!r}: {image}. Fix or remove the row.")
            images[row] = image
    return images
