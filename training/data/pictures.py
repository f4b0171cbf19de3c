"""From an encoded picture to pixels."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageOps
from torch import Tensor

ORIENTATION = 0x0112  # the EXIF tag that says how a camera was held
REDUCING_GAP = 2  # a JPEG may be decoded at a half or less, if twice the wanted size is left; as in Pillow's thumbnail


class DecompressionBomb(ValueError):
    """A picture has more pixels than Pillow thinks wise."""


def decode_picture(cell: dict | None, size: int) -> Tensor | str:
    """Decode, resize the short side to `size` (bicubic), centre-crop.

    Args:
        cell: `{"bytes": ..., "path": ...}` as `datasets` stores undecoded pictures.
        size: edge in pixels.

    Returns:
        (3, size, size) uint8, channels last in memory as Pillow has them, or the reason why the picture cannot be
        used.
    """
    if cell is None or (cell.get("bytes") is None and not cell.get("path")):
        return "no picture"
    try:
        image = open_picture(cell, size)
    except DecompressionBomb:
        return "decompression bomb"
    except (OSError, ValueError, SyntaxError):  # what Pillow raises on damaged files
        return "picture does not decode"
    return torch.from_numpy(np.array(_fit(image, size))).permute(2, 0, 1)


def _fit(image: PILImage.Image, size: int) -> PILImage.Image:
    """Resize the short side and crop the centre, in one step: nothing is computed to be thrown away."""
    scale = size / min(image.size)
    width, height = max(size, round(image.width * scale)), max(size, round(image.height * scale))
    left, top = (width - size) // 2, (height - size) // 2
    if scale == 1:
        return image.crop((left, top, left + size, top + size))
    across, down = image.width / width, image.height / height
    right, bottom = min(image.width, (left + size) * across), min(image.height, (top + size) * down)
    return image.resize((size, size), PILImage.Resampling.BICUBIC, (left * across, top * down, right, bottom))


def picture_cell(cell: Any) -> dict | None:
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


def open_picture(cell: dict, size: int | None = None) -> PILImage.Image:
    """The RGB picture in a cell `{"bytes": ..., "path": ...}`, turned as the camera was held.

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
        with warnings.catch_warnings():
            warnings.simplefilter("error", PILImage.DecompressionBombWarning)
            image = PILImage.open(BytesIO(encoded) if encoded is not None else cell["path"])
    except (PILImage.DecompressionBombError, PILImage.DecompressionBombWarning) as error:
        raise DecompressionBomb(str(error)) from error
    with image:
        if size is not None and image.format == "JPEG":
            scale = REDUCING_GAP * size / min(image.size)
            image.draft(None, (round(image.width * scale), round(image.height * scale)))
        if image.getexif().get(ORIENTATION, 1) != 1:
            return to_rgb(ImageOps.exif_transpose(image))
        return to_rgb(image)


def to_rgb(image: PILImage.Image) -> PILImage.Image:
    """Any mode to RGB; transparent pictures on white, which is how they are drawn to be seen."""
    if image.mode in ("RGB", "L"):
        return image.convert("RGB")
    if image.mode != "RGBA":  # a copy otherwise
        image = image.convert("RGBA")
    if image.getchannel("A").getextrema() == (255, 255):  # nothing shines through, and the canvas takes longest
        return image.convert("RGB")
    canvas = PILImage.new("RGBA", image.size, "white")
    return PILImage.alpha_composite(canvas, image).convert("RGB")
