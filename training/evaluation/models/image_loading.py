"""Images as a protocol wants them, at a model's size and in its statistics, prepared beside the forward pass."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage
from torch import Tensor
from transformers import PreTrainedConfig

from training.data import open_image
from training.data.images import encoded_bytes
from training.data.transforms import Normalize
from training.teachers.families import naflex_image_size

AHEAD = 2  # batches that are being prepared while one is encoded
AT_ONCE = 8  # images a thread prepares before it looks for more


@dataclass(frozen=True)
class _Own:
    """An image processor, called on images that have the right size already."""

    image_processor: Any

    def __call__(self, pixels: Tensor) -> Tensor:
        images = [PILImage.fromarray(image) for image in pixels.permute(0, 2, 3, 1).cpu().numpy()]
        stay = {field: False for field in ("do_resize", "do_center_crop") if hasattr(self.image_processor, field)}
        return self.image_processor(images, return_tensors="pt", **stay)["pixel_values"].to(pixels.device)


@dataclass(frozen=True)
class ImagePreparation:
    """The last steps before a model sees.

    Args:
        image_size: edge of its square input in pixels.
        normalize: (B, 3, S, S) uint8 to what the model reads.
        stated: who says so, for results.
    """

    image_size: int
    normalize: Callable[[Tensor], Tensor]
    stated: str

    @classmethod
    def of(cls, config: PreTrainedConfig, image_processor: Any, name: str) -> "ImagePreparation":
        """Read a model's own size and statistics.

        The image processor itself is asked whether its statistics are all that it does to an image of the right
        size. Where they are not, or where it states none, as some that come with remote code, it prepares every
        image.

        Args:
            config: the model's.
            image_processor: the model's.
            name: the model's, for messages.

        Raises:
            ValueError: its input is no square, or neither says how large it is.
        """
        size = _image_size(config, image_processor, name)
        stated = "the model's statistics, the protocol's resizing"
        if config.model_type == "siglip2":  # its processor makes patches
            return cls(size, Normalize.from_processor(image_processor, size), stated)
        own = _Own(image_processor)
        if getattr(image_processor, "image_mean", None) is not None:
            normalize = Normalize.from_processor(image_processor, size)
            probe = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=torch.Generator())
            if torch.allclose(normalize(probe), own(probe), atol=1e-4):
                return cls(size, normalize, stated)
        return cls(size, own, f"the model's own {type(image_processor).__name__}")

    def fit(self, image: PILImage.Image, squash: bool = False) -> Tensor:
        """An image as the protocol wants it, bicubic.

        Args:
            image: RGB.
            squash: resize to the square without a crop; else the short side, and crop the centre.

        Returns:
            (S, S, 3) uint8, as Pillow lays it out: batches of it need no copy to become (B, 3, S, S).

        Source: `Resize` and `CenterCrop` of torchvision, which ELEVATER's toolkit and CLIP use, to the pixel.
        """
        size, short = self.image_size, min(image.size)
        wanted = (size, size) if squash else (int(size * image.width / short), int(size * image.height / short))
        if wanted != image.size:
            image = image.resize(wanted, PILImage.Resampling.BICUBIC)
        left, top = (round((edge - size) / 2) for edge in image.size)
        if image.size != (size, size):
            image = image.crop((left, top, left + size, top + size))
        return torch.from_numpy(np.array(image))

    def describe(self) -> dict[str, Any]:
        """The same for `results.json`."""
        described = {"image_size": self.image_size, "interpolation": "bicubic", "stated_by": self.stated}
        if isinstance(self.normalize, Normalize):
            described |= {"mean": list(self.normalize.mean), "std": list(self.normalize.std)}
        return described


def digest_images(rows: Dataset, column: str = "image") -> str:
    """Of all encoded images in their order: the key for what is stored of them.

    Args:
        rows: with a column of undecoded images.
        column: its name.
    """
    digest = hashlib.blake2b(digest_size=16)
    for batch in rows.iter(256):
        for cell in batch[column]:
            content = encoded_bytes(cell)
            digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def prepared_batches(
    rows: Dataset, column: str, batch_size: int, prepare: Callable[[PILImage.Image], Tensor]
) -> Iterator[Tensor]:
    """Batches of prepared images, in order. Threads prepare the next ones while the caller works on one; however
    many rows there are, no more than `AHEAD` + 1 batches are held.

    Yields (B, 3, S, S) uint8, channels last in memory.

    Args:
        rows: with a column of images.
        column: its name.
        batch_size: images a batch; the last may have fewer.
        prepare: an RGB image to (S, S, 3) uint8.

    Raises:
        ValueError: an image does not decode; its row is named.
    """
    images = rows.select_columns([column]).cast_column(column, Image(decode=False))

    def prepare_rows(numbers: Sequence[int]) -> list[Tensor]:
        cells = images[list(numbers)][column]
        return [prepare(_open(cell, number)) for cell, number in zip(cells, numbers, strict=True)]

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    ahead: deque[list[Future[list[Tensor]]]] = deque()
    try:
        for start in range(0, len(rows), batch_size):
            numbers = range(start, min(start + batch_size, len(rows)))
            parts = [numbers[first : first + AT_ONCE] for first in range(0, len(numbers), AT_ONCE)]
            ahead.append([pool.submit(prepare_rows, part) for part in parts])
            if len(ahead) > AHEAD:
                yield _stack(ahead.popleft())
        while ahead:
            yield _stack(ahead.popleft())
    finally:  # whoever stops early, or finds a damaged image, does not wait for the rest
        pool.shutdown(cancel_futures=True)


def _stack(parts: list[Future[list[Tensor]]]) -> Tensor:
    return torch.stack([image for part in parts for image in part.result()]).permute(0, 3, 1, 2)


def _open(cell: dict | None, row: int) -> PILImage.Image:
    if cell is None:
        raise ValueError(f"image: row {row} has no image. A test set is never thinned silently: mend or remove it.")
    try:
        return open_image(cell)
    except (OSError, ValueError, SyntaxError, PILImage.DecompressionBombError) as error:
        raise ValueError(
            f"image: row {row} does not decode ({error}). A test set is never thinned silently: mend or remove the "
            "row."
        ) from error


def _image_size(config: PreTrainedConfig, image_processor: Any, name: str) -> int:
    if config.model_type == "siglip2":  # takes any shape of so many patches; as a square, it is
        return naflex_image_size(config)
    crops = getattr(image_processor, "do_center_crop", False)
    stated = getattr(image_processor, "crop_size" if crops else "size", None)
    if stated is None or isinstance(stated, int):
        size = stated or getattr(getattr(config, "vision_config", None), "image_size", None)
    else:
        height, width = stated.get("height"), stated.get("width")
        size = stated.get("shortest_edge") if height is None else height
        if height != width:
            raise ValueError(f"model: {name!r} reads images of {width} x {height} pixels; only squares are known.")
    if not isinstance(size, int):
        raise ValueError(
            f"model: neither the image processor of {name!r} ({type(image_processor).__name__}) nor its config "
            f"(vision_config.image_size) says how large an image it reads; got {size!r}."
        )
    return size
