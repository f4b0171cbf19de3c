"""From an encoded picture to pixels."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor


def decode_picture(cell: dict | None, size: int) -> Tensor | str:
    """Decode, resize the short side to `size` (bicubic), centre-crop.

    Args:
        cell: `{"bytes": ..., "path": ...}` as `datasets` stores undecoded pictures.
        size: edge in pixels.

    Returns:
        (3, size, size) uint8, or the reason why the picture cannot be used.
    """
    if cell is None or (cell.get("bytes") is None and not cell.get("path")):
        return "no picture"
    try:
        image = open_picture(cell)
    except PILImage.DecompressionBombError:
        return "decompression bomb"
    except (OSError, ValueError, SyntaxError):  # what Pillow raises on damaged files
        return "picture does not decode"
    scale = size / min(image.size)
    if scale != 1:
        image = image.resize(
            (max(size, round(image.width * scale)), max(size, round(image.height * scale))),
            PILImage.Resampling.BICUBIC,
        )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def encoded_bytes(cell: dict | None) -> bytes:
    """The file in a cell `{"bytes": ..., "path": ...}` as it is stored; empty where there is none."""
    if cell is None:
        return b""
    if cell.get("bytes") is not None:
        return cell["bytes"]
    path = cell.get("path")
    return Path(path).read_bytes() if path and Path(path).exists() else b""


def open_picture(cell: dict) -> PILImage.Image:
    """The RGB picture in a cell `{"bytes": ..., "path": ...}`; what Pillow raises on damaged files passes through."""
    with PILImage.open(BytesIO(cell["bytes"]) if cell.get("bytes") is not None else cell["path"]) as image:
        return to_rgb(image)


def to_rgb(image: PILImage.Image) -> PILImage.Image:
    """Any mode to RGB; transparent pictures on white, which is how they are drawn to be seen."""
    if image.mode in ("RGB", "L"):
        return image.convert("RGB")
    image = image.convert("RGBA")
    canvas = PILImage.new("RGBA", image.size, "white")
    return PILImage.alpha_composite(canvas, image).convert("RGB")
