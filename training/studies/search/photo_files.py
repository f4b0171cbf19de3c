"""JPEG files of any number for the studies of search, written in seconds."""

import io
import struct
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from training.data import load_source
from training.data.images import image_cell, open_image

QUALITY = 88
FILES_PER_FOLDER = 1000
COMMENT = b"\xff\xfe"  # marker of a comment in a JPEG file
START = 2  # bytes of the marker that begins a JPEG file


def encode_photos(source: str, num_photos: int, width: int) -> list[bytes]:
    """Enlarge the first photographs of a source, and encode them as JPEG.

    Args:
        source: Images, as `data.train` in a recipe.
        num_photos: Maximum number of photographs.
        width: Width of each in pixels.

    Raises:
        ValueError: A row has no image, or one that cannot be read.
    """
    rows = load_source(source)
    encoded = []
    for sample in rows.select(range(min(num_photos, len(rows)))):
        image = _rgb(sample["image"])
        size = (width, max(round(width * image.height / image.width), 1))
        content = io.BytesIO()
        image.resize(size, Image.Resampling.BICUBIC).save(content, "JPEG", quality=QUALITY)
        encoded.append(content.getvalue())
    return encoded


def write_photos(folder: Path, encoded: Sequence[bytes], numbers: range) -> list[Path]:
    """Write files that all have another content, so that each is embedded.

    The photographs are repeated, and each file has its number in a comment. Its pixels are decoded as in any file.

    Args:
        folder: Folder for the files.
        encoded: JPEG files.
        numbers: Numbers of the files to write.

    Returns:
        Their paths, in the order of an index.
    """
    paths = []
    for number in numbers:
        path = folder / f"{number // FILES_PER_FOLDER:04d}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        content, text = encoded[number % len(encoded)], str(number).encode()
        comment = COMMENT + struct.pack(">H", len(text) + 2) + text  # the length counts itself
        path.write_bytes(content[:START] + comment + content[START:])
        paths.append(path)
    return paths


def _rgb(cell: object) -> Image.Image:
    """Image of a cell, which the source may have decoded."""
    if isinstance(cell, Image.Image):
        return cell.convert("RGB")
    encoded = image_cell(cell)
    if encoded is None:
        raise ValueError("data: a row has no image. Remove it, or choose other data.")
    return open_image(encoded)
