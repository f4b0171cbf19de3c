"""Image preparation for evaluation: decode, resize and normalize, in threads, while the model encodes."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import PreTrainedConfig

from modeling_dcclip.image_dcclip import fit_image, map_ahead, square_input, squashes, to_rgb
from training.data.images import Normalize, read_image

BATCHES_AHEAD = 2  # batches that are prepared while one is encoded


def _normalize_by(image_processor: Any, pixels: Tensor) -> Tensor:
    """Normalization by a model's image processor, for images that already have the input size."""
    images = [PILImage.fromarray(image) for image in pixels.permute(0, 2, 3, 1).cpu().numpy()]
    keep_size = {}
    for field in ("do_resize", "do_center_crop"):
        if hasattr(image_processor, field):
            keep_size[field] = False
    prepared = image_processor(images, return_tensors="pt", **keep_size)
    return prepared["pixel_values"].to(pixels.device)


@dataclass(frozen=True)
class ImagePreparation:
    """How images become the input of a model.

    Args:
        image_size: Edge of the square input in pixels.
        normalize: Function of images (B, 3, S, S) uint8 that returns pixel values (B, 3, S, S) float.
        stated_by: Where these values come from, for `results.json`.
        squashes: Whether the model takes the whole image, resized to the square, instead of its center.
    """

    image_size: int
    normalize: Callable[[Tensor], Tensor]
    stated_by: str
    squashes: bool = False

    @classmethod
    def of(cls, config: PreTrainedConfig, image_processor: Any, name: str) -> "ImagePreparation":
        """Find the input size and the normalization of a model.

        Normalization with the stated mean and standard deviation is used if it gives the pixel values of the image
        processor, on an image of the input size. Otherwise, as for processors without a mean in some remote code, the
        image processor is called for every image.

        Args:
            config: Config of the model.
            image_processor: Image processor of the model.
            name: Hub id or folder, for error messages.

        Raises:
            ValueError: The input is not square, or neither config nor image processor states its size.
        """
        size = _image_size(config, image_processor, name)
        stated_by = "the model's statistics, the protocol's resizing"
        whole = squashes(image_processor)
        by_processor = partial(_normalize_by, image_processor)
        if getattr(image_processor, "image_mean", None) is not None:
            normalize = Normalize.from_processor(image_processor, size)
            generator = torch.Generator()
            probe = torch.randint(256, (1, 3, size, size), dtype=torch.uint8, generator=generator)
            found = normalize(probe)
            expected = by_processor(probe)
            if torch.allclose(found, expected, atol=1e-4):
                return cls(size, normalize, stated_by, whole)
        return cls(size, by_processor, f"the model's own {type(image_processor).__name__}", whole)

    def fit(self, image: PILImage.Image) -> Tensor:
        """Resize an RGB image to the input size with bicubic interpolation.

        Returns:
            (S, S, 3) uint8, in the memory layout of Pillow, so that a batch is a view as (B, 3, S, S).

        Source: `Resize` and `CenterCrop` of torchvision, which ELEVATER's toolkit and CLIP use, except that they
        round half pixels. Of an image whose longer side is more than 32 times the shorter one, the middle is taken
        first.
        """
        fitted = fit_image(image, *square_input(self.image_size, self.squashes))
        return torch.from_numpy(np.array(fitted))

    def describe(self) -> dict[str, Any]:
        """These settings for `results.json`."""
        return {
            "image_size": self.image_size,
            "interpolation": "bicubic",
            "images_are": "squashed" if self.squashes else "cropped",
            "stated_by": self.stated_by,
            "mean": getattr(self.normalize, "mean", None),
            "std": getattr(self.normalize, "std", None),
        }


def prepared_batches(
    images: Iterable[Any], batch_size: int, prepare: Callable[[PILImage.Image], Tensor]
) -> Iterator[Tensor]:
    """Iterate over batches of prepared images, in order.

    Threads prepare the next batches while the caller works on one. At most `BATCHES_AHEAD` + 1 batches are in memory.

    Args:
        images: Cells of a column of images, decoded or not, or paths, contents of files, or Pillow images.
        batch_size: Number of images in a batch; the last batch may have fewer.
        prepare: Function of an RGB image that returns (S, S, 3) uint8.

    Yields:
        (B, 3, S, S) uint8, channels last in memory.

    Raises:
        ValueError: An image does not decode; the message has its number.
    """

    def prepare_one(numbered: tuple[int, Any]) -> Tensor:
        return prepare(_open(*numbered))

    threads = min(8, os.cpu_count() or 1)
    prepared = map_ahead(prepare_one, enumerate(images), threads, BATCHES_AHEAD * batch_size)
    while batch := list(islice(prepared, batch_size)):
        yield torch.stack(batch).permute(0, 3, 1, 2)  # (B, S, S, 3) -> (B, 3, S, S)


def _open(number: int, value: Any) -> PILImage.Image:
    """An image of any kind in RGB."""
    if isinstance(value, PILImage.Image):
        return to_rgb(value)
    if isinstance(value, bytes):
        value = {"bytes": value, "path": None}
    elif isinstance(value, (str, Path)):
        value = {"bytes": None, "path": str(value)}
    image = read_image(value)
    if isinstance(image, str):
        file = f", file {value['path']!r}" if value and value.get("path") else ""
        raise ValueError(
            f"image: row {number}{file}: {image}. Rows are never dropped silently: fix or remove it."
        )
    return image


def _image_size(config: PreTrainedConfig, image_processor: Any, name: str) -> int:
    crops = getattr(image_processor, "do_center_crop", False)
    stated = getattr(image_processor, "crop_size" if crops else "size", None) or {}
    if isinstance(stated, int):
        return stated
    edges = {stated.get(name) for name in ("height", "width", "shortest_edge")} - {None}
    if not edges:
        edges = {getattr(getattr(config, "vision_config", None), "image_size", None)}
    size = edges.pop()
    if edges or not isinstance(size, int):
        raise ValueError(
            f"model: {name!r} takes images of {stated or size!r}; only square inputs whose size the processor or "
            "vision_config.image_size states are supported."
        )
    return size
