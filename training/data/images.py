"""From an encoded image to pixels."""

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

ORIENTATION = 0x0112  # the EXIF tag that says how a camera was held
REDUCING_GAP = 2  # a JPEG may be decoded at a half or less, if twice the wanted size is left; as in Pillow's thumbnail
THREADED_FROM = 128  # pixels; what smaller images take is mostly Python, in which threads wait for each other
MOST_ELONGATED = 4  # the ends of a longer strip are cut off before it is resized, which would be most of the work


class DecompressionBomb(ValueError):
    """An image has more pixels than Pillow thinks wise."""


def decode_image(cell: dict | None, size: int) -> Tensor | str:
    """Decode, resize the short side to `size` (bicubic), centre-crop.

    Args:
        cell: `{"bytes": ..., "path": ...}` as `datasets` stores undecoded images.
        size: edge in pixels.

    Returns:
        (3, size, size) uint8, or the reason why the image cannot be used.
    """
    if cell is None or (cell.get("bytes") is None and not cell.get("path")):
        return "no image"
    try:
        image = open_image(cell, size)
    except DecompressionBomb:
        return "decompression bomb"
    except (OSError, ValueError, SyntaxError):  # what Pillow raises on damaged files
        return "image does not decode"
    return _fit(image, size)


def decode_images(cells: Sequence[dict | None], size: int) -> list[Tensor | str]:
    """The same of many, in order; large ones on as many threads as torch has, which is one in a decoding process."""
    threads = min(torch.get_num_threads(), len(cells)) if size >= THREADED_FROM else 1
    if threads < 2:
        return [decode_image(cell, size) for cell in cells]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(decode_image, cells, repeat(size)))


def _fit(image: PILImage.Image, size: int) -> Tensor:
    """Resize the short side of an RGB image and crop the centre. torch resizes three times as fast as Pillow, and
    just as transformers' image processors do.
    """
    across, down = (min(edge, MOST_ELONGATED * min(image.size)) for edge in image.size)
    if (across, down) != image.size:
        left, top = (image.width - across) // 2, (image.height - down) // 2
        image = image.crop((left, top, left + across, top + down))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    width, height = (max(size, round(edge * size / min(image.size))) for edge in image.size)
    if (width, height) != image.size:
        pixels = F.interpolate(pixels[None], (height, width), mode="bicubic", antialias=True, align_corners=False)[0]
    left, top = (width - size) // 2, (height - size) // 2
    return pixels[:, top : top + size, left : left + size]


def image_cell(cell: Any) -> dict | None:
    """A cell `{"bytes": ..., "path": ...}` from a column that may hold the file's bytes or its path alone."""
    if isinstance(cell, bytes):
        return {"bytes": cell, "path": None}
    if isinstance(cell, str):
        return {"bytes": None, "path": cell}
    return cell if isinstance(cell, dict) else None


def encoded_bytes(cell: dict | None) -> bytes:
    """The file in a cell `{"bytes": ..., "path": ...}` as it is stored; empty where there is none."""
    if cell is None:
        return b""
    if cell.get("bytes") is not None:
        return cell["bytes"]
    path = cell.get("path")
    return Path(path).read_bytes() if path and Path(path).exists() else b""


def open_image(cell: dict, size: int | None = None) -> PILImage.Image:
    """The RGB image in a cell `{"bytes": ..., "path": ...}`, turned as the camera was held.

    Args:
        cell: its path may be a URL that `fsspec` opens.
        size: the short side that it will be resized to; a large JPEG is then decoded smaller.

    Raises:
        DecompressionBomb: it has too many pixels.
        OSError, ValueError, SyntaxError: what Pillow raises on damaged files.
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
        if limit is not None and image.width * image.height > limit:  # Pillow only warns, up to twice as many
            raise DecompressionBomb(f"{image.width} x {image.height} pixels, more than {limit}")
        if size is not None and image.format == "JPEG":
            scale = REDUCING_GAP * size / min(image.size)
            image.draft(None, (round(image.width * scale), round(image.height * scale)))
        if image.getexif().get(ORIENTATION, 1) != 1:
            return to_rgb(ImageOps.exif_transpose(image))
        return to_rgb(image)


def to_rgb(image: PILImage.Image) -> PILImage.Image:
    """Any mode to RGB; transparent images on white, which is how they are drawn to be seen."""
    if image.mode in ("RGB", "L"):
        return image.convert("RGB")
    if image.mode != "RGBA":  # a copy otherwise
        image = image.convert("RGBA")
    if image.getchannel("A").getextrema() == (255, 255):  # nothing shines through, and the canvas takes longest
        return image.convert("RGB")
    canvas = PILImage.new("RGBA", image.size, "white")
    return PILImage.alpha_composite(canvas, image).convert("RGB")
