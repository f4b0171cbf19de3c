"""Decode, resize and crop images, and flatten transparent ones onto white.

A cell is the value of an image column as `datasets` stores undecoded images: `{"bytes": ..., "path": ...}`.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from torch import Tensor

from modeling_dcclip.image_dcclip import DecompressionBomb, ImageError, crop_to_aspect
from modeling_dcclip.image_dcclip import open_image as open_file

URL_TIMEOUT_S = 30.0  # for one image
MAX_URL_BYTES = 64 * 2**20
URL_REFUSED = "image is a URL, and allow_urls is off"
PATH_REFUSED = "image is a path outside the data, and allow_paths is off"
THREADED_FROM = 128  # pixels; below, decoding is mostly Python code, which threads cannot run in parallel


def decode_image(cell: dict | str | None, size: int, squash: bool = False) -> Tensor | str:
    """Decode an image, resize its short side to `size` (bicubic) and crop the center.

    Args:
        cell: Undecoded image, or the cause why it may not be opened.
        size: Edge of the decoded image in pixels.
        squash: Whether to resize both sides to `size` instead, so that nothing is cropped.

    Returns:
        (3, size, size) uint8, or the cause why the image cannot be used, such as `image does not decode`.
    """
    if isinstance(cell, str):
        return cell
    if cell is None or (cell.get("bytes") is None and not cell.get("path")):
        return "no image"
    try:
        image = open_image(cell, size)
    except DecompressionBomb:
        return "decompression bomb"
    except (OSError, ImageError):
        return "image does not decode"
    return _resize(image, size, size) if squash else _crop(image, size)


def decode_images(cells: Sequence[dict | str | None], size: int, squash: bool = False) -> list[Tensor | str]:
    """Decode many images in order, large ones on as many threads as torch uses.

    In a DataLoader worker torch uses one thread.

    Args:
        cells: Undecoded images.
        size: Edge of the decoded images in pixels.
        squash: Whether images are resized to the square without a crop.

    Returns:
        The result of `decode_image` for each cell.
    """
    threads = min(torch.get_num_threads(), len(cells)) if size >= THREADED_FROM else 1
    if threads < 2:
        return [decode_image(cell, size, squash) for cell in cells]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(decode_image, cells, repeat(size), repeat(squash)))


def _crop(image: PILImage.Image, size: int) -> Tensor:
    """Resize the short side of an RGB image to `size` and crop the center: (3, size, size) uint8."""
    image = crop_to_aspect(image)
    width, height = (max(size, int(edge * size / min(image.size))) for edge in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return _resize(image, width, height)[:, top : top + size, left : left + size]


def _resize(image: PILImage.Image, width: int, height: int) -> Tensor:
    """Resize an RGB image: (3, height, width) uint8.

    torch is three times as fast as Pillow here, and gives the result of transformers' image processors.
    """
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    if (width, height) == image.size:
        return pixels
    return F.interpolate(pixels[None], (height, width), mode="bicubic", antialias=True, align_corners=False)[0]


def image_cell(cell: Any) -> dict | None:
    """Make a cell from the value of a column, which may hold only the bytes or only the path of the file."""
    if isinstance(cell, bytes):
        return {"bytes": cell, "path": None}
    if isinstance(cell, str):
        return {"bytes": None, "path": cell}
    return cell if isinstance(cell, dict) else None


def encoded_bytes(cell: dict | str | None) -> bytes:
    """Return the undecoded file of a cell; empty bytes if there is no file."""
    if cell is None or isinstance(cell, str):
        return b""
    if cell.get("bytes") is not None:
        return cell["bytes"]
    path = cell.get("path")
    return Path(path).read_bytes() if path and Path(path).exists() else b""


def embedded_cell(cell: dict) -> dict[str, Any]:
    """A cell with the content of its file and the name alone, for data that travel without the file."""
    return {"bytes": encoded_bytes(cell), "path": Path(cell["path"]).name if cell.get("path") else None}


def open_image(cell: dict, size: int | None = None) -> PILImage.Image:
    """Decode a cell to an RGB image, rotated upright by its EXIF orientation.

    Args:
        cell: Undecoded image; its path may be a URL that `fsspec` opens.
        size: Short side in pixels to which the caller will resize the image, so that a large JPEG can be decoded
            smaller. Default: full size.

    Raises:
        DecompressionBomb: If the image has too many pixels.
        ImageError: If the file is damaged or has another format.
        OSError: If the file cannot be read.
    """
    encoded = cell.get("bytes")
    if encoded is None and is_url(cell["path"]):
        encoded = fetch(cell["path"])
    return open_file(encoded if encoded is not None else cell["path"], size)


def is_url(path: str) -> bool:
    """Check whether the path of a cell is a URL."""
    return "://" in path


def _is_local(url: str) -> bool:
    """Whether a URL can lead to a file of this machine: by its protocol, or as a chain of protocols."""
    return url.startswith(("file:", "local:")) or "::" in url


def fetch(url: str) -> bytes:
    """Read a file that a cell names by its URL, within limits of time and size.

    Args:
        url: URL of any protocol that `fsspec` knows.

    Raises:
        ImageError: The file is too large, or cannot be fetched in time.
    """
    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=URL_TIMEOUT_S)}}
    try:
        with fsspec.open(url, "rb", **options) as file:
            content = file.read(MAX_URL_BYTES + 1)
    except Exception as error:  # every protocol raises other types
        raise ImageError(f"{type(error).__name__}: {error}") from error
    if len(content) > MAX_URL_BYTES:
        raise ImageError(f"more than {MAX_URL_BYTES} bytes")
    return content


@dataclass(frozen=True)
class CellRules:
    """Which images of a source are opened. Others are skipped with a cause.

    Cells come from the data, which others may have written. A URL can call a server of the local network, and a path
    can read any file.

    Args:
        allow_urls: Whether cells may name images by URL.
        allow_paths: Whether cells may name files outside `roots`.
        roots: Folders of the source itself, in which `datasets` has found its image files.
    """

    allow_urls: bool = False
    allow_paths: bool = False
    roots: tuple[Path, ...] = ()

    def __call__(self, cell: Any) -> dict | str | None:
        """Return a cell that may be opened, or the cause why not.

        Args:
            cell: Value of an image column.
        """
        cell = image_cell(cell)
        if cell is None or cell.get("bytes") is not None or not (path := cell.get("path")):
            return cell
        if is_url(path) and _is_local(path):  # fsspec would open a file of this machine
            return cell if self.allow_urls and self.allow_paths else PATH_REFUSED
        if is_url(path):
            return cell if self.allow_urls else URL_REFUSED
        if self.allow_paths or any(Path(path).resolve().is_relative_to(root) for root in self.roots):
            return cell
        return PATH_REFUSED
