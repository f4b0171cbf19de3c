"""Decode, resize and crop images, and flatten transparent ones onto white.

A cell is the value of an image column as `datasets` stores undecoded images: `{"bytes": ..., "path": ...}`.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import repeat
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from PIL import ImageOps
from torch import Tensor

ORIENTATION = 0x0112  # EXIF tag with the orientation of the camera
REDUCING_GAP = 2  # a JPEG is decoded at 1/2, 1/4 or 1/8 if twice the target size is left, as in Pillow's thumbnail
THREADED_FROM = 128  # pixels; below, decoding is mostly Python code, which threads cannot run in parallel
MAX_ASPECT_RATIO = 4  # longer images are cropped to it before they are resized, to save time and memory


class DecompressionBomb(ValueError):
    """Raised if an image has more pixels than Pillow's limit, `PIL.Image.MAX_IMAGE_PIXELS`."""


def decode_image(cell: dict | None, size: int) -> Tensor | str:
    """Decode an image, resize its short side to `size` (bicubic) and crop the center.

    Args:
        cell: Undecoded image.
        size: Edge of the decoded image in pixels.

    Returns:
        (3, size, size) uint8, or the cause why the image cannot be used, such as `image does not decode`.
    """
    if cell is None or (cell.get("bytes") is None and not cell.get("path")):
        return "no image"
    try:
        image = open_image(cell, size)
    except DecompressionBomb:
        return "decompression bomb"
    except (OSError, ValueError, SyntaxError):  # Pillow raises all of them on damaged files
        return "image does not decode"
    return _fit(image, size)


def decode_images(cells: Sequence[dict | None], size: int) -> list[Tensor | str]:
    """Decode many images in order, large ones on as many threads as torch uses.

    In a DataLoader worker torch uses one thread.

    Args:
        cells: Undecoded images.
        size: Edge of the decoded images in pixels.

    Returns:
        The result of `decode_image` for each cell.
    """
    threads = min(torch.get_num_threads(), len(cells)) if size >= THREADED_FROM else 1
    if threads < 2:
        return [decode_image(cell, size) for cell in cells]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(decode_image, cells, repeat(size)))


def _fit(image: PILImage.Image, size: int) -> Tensor:
    """Resize the short side of an RGB image to `size` and crop the center: (3, size, size) uint8.

    torch is three times as fast as Pillow here, and gives the result of transformers' image processors.
    """
    width, height = (min(edge, MAX_ASPECT_RATIO * min(image.size)) for edge in image.size)
    if (width, height) != image.size:
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    width, height = (max(size, round(edge * size / min(image.size))) for edge in image.size)
    if (width, height) != image.size:
        pixels = F.interpolate(pixels[None], (height, width), mode="bicubic", antialias=True, align_corners=False)[0]
    left, top = (width - size) // 2, (height - size) // 2
    return pixels[:, top : top + size, left : left + size]


def image_cell(cell: Any) -> dict | None:
    """Make a cell from the value of a column, which may hold only the bytes or only the path of the file."""
    if isinstance(cell, bytes):
        return {"bytes": cell, "path": None}
    if isinstance(cell, str):
        return {"bytes": None, "path": cell}
    return cell if isinstance(cell, dict) else None


def encoded_bytes(cell: dict | None) -> bytes:
    """Return the undecoded file of a cell; empty bytes if there is no file."""
    if cell is None:
        return b""
    if cell.get("bytes") is not None:
        return cell["bytes"]
    path = cell.get("path")
    return Path(path).read_bytes() if path and Path(path).exists() else b""


def open_image(cell: dict, size: int | None = None) -> PILImage.Image:
    """Decode a cell to an RGB image, rotated upright by its EXIF orientation.

    Args:
        cell: Undecoded image; its path may be a URL that `fsspec` opens.
        size: Short side in pixels to which the caller will resize the image, so that a large JPEG can be decoded
            smaller. Default: full size.

    Raises:
        DecompressionBomb: If the image has too many pixels.
        OSError, ValueError, SyntaxError: If Pillow cannot decode the file.
    """
    encoded = cell.get("bytes")
    if encoded is None and "://" in cell["path"]:
        with fsspec.open(cell["path"], "rb") as file:
            encoded = file.read()
    try:
        image = PILImage.open(BytesIO(encoded) if encoded is not None else cell["path"])
    except (PILImage.DecompressionBombError, PILImage.DecompressionBombWarning) as error:
        raise DecompressionBomb(str(error)) from error
    with image:
        limit = PILImage.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:  # Pillow only warns, up to twice the limit
            raise DecompressionBomb(f"{image.width} x {image.height} pixels, more than {limit}")
        if size is not None and image.format == "JPEG":
            scale = REDUCING_GAP * size / min(image.size)
            image.draft(None, (round(image.width * scale), round(image.height * scale)))
        if image.getexif().get(ORIENTATION, 1) != 1:
            return to_rgb(ImageOps.exif_transpose(image))
        return to_rgb(image)


def to_rgb(image: PILImage.Image) -> PILImage.Image:
    """Convert an image of any mode to RGB. Transparent images are flattened onto white."""
    if image.mode in ("RGB", "L"):
        return image.convert("RGB")
    if image.mode != "RGBA":  # convert would copy an RGBA image
        image = image.convert("RGBA")
    if image.getchannel("A").getextrema() == (255, 255):  # opaque; compositing would be the slowest step
        return image.convert("RGB")
    canvas = PILImage.new("RGBA", image.size, "white")
    return PILImage.alpha_composite(canvas, image).convert("RGB")
