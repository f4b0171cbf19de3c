"""The images of a data set: how they are decoded, resized, cropped, augmented and normalized.

A cell is the value of an image column as `datasets` stores undecoded images: `{"bytes": ..., "path": ...}`. Every
random number of a view is a hash of (seed, image, view), so a view is the same in any batch, worker, process or run.
torchvision's v2 transforms are not used, because they draw from one global stream, image by image.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from PIL import Image as PILImage
from torch import Tensor

from modeling_dcclip.image_dcclip import (
    DecompressionBomb,
    ImageError,
    crop_to_aspect,
    fit_box,
    lower_tall,
    square_input,
)
from modeling_dcclip.image_dcclip import open_image as open_file
from training.config import AugmentConfig
from training.data.reader import FILE_MISSING, Cell, CellRules
from training.utils.keys import Digest, keyed_uniform

NO_IMAGE = "no image"
ROWS_AT_ONCE = 256
BOMB = "decompression bomb"
UNDECODABLE = "image does not decode"
# pixels; below, decoding is mostly Python code, which threads cannot run in parallel
THREADED_FROM = 128


def read_image(cell: Cell | str | None, size: int | None = None) -> PILImage.Image | str:
    """Decode an image.

    Args:
        cell: Undecoded image, or the cause why it may not be opened.
        size: Short side in pixels that the image will be resized to, for a large JPEG. Default: full size.

    Returns:
        The image in RGB, rotated upright by its EXIF orientation, or the cause why it cannot be used.
    """
    cell = embedded_cell(cell)
    if isinstance(cell, str):
        return cell
    try:
        return open_file(cell["bytes"], size)
    except DecompressionBomb:
        return BOMB
    except (OSError, ImageError):
        return UNDECODABLE


def open_image(cell: Cell, size: int | None = None) -> PILImage.Image:
    """Decode an image as `read_image` does; raise ImageError with the cause if it cannot be used."""
    image = read_image(cell, size)
    if isinstance(image, str):
        raise ImageError(image)
    return image


def embedded_cell(cell: Cell | str | None) -> Cell | str:
    """A cell with the content of its file and the name alone, or the cause why it has none."""
    if isinstance(cell, str):
        return cell
    path = cell.get("path") if cell is not None else None
    if cell is not None and cell.get("bytes") is not None:
        return {"bytes": cell["bytes"], "path": os.path.basename(path) if path else None}
    if not path:
        return NO_IMAGE
    try:
        if not os.path.exists(path):
            return FILE_MISSING
        if not os.path.isfile(path):  # reading a pipe or a device may never end
            return "image is not a file"
        return {"bytes": Path(path).read_bytes(), "path": os.path.basename(path)}
    except (OSError, ValueError) as error:
        return f"image file cannot be read ({error})"


def decode_image(cell: Cell | str | None, size: int, squash: bool = False) -> Tensor | str:
    """Decode an image, resize its short side to `size` (bicubic) and crop the center.

    Args:
        cell: Undecoded image, or the cause why it may not be opened.
        size: Edge of the decoded image in pixels.
        squash: Whether to resize both sides to `size` instead, so that nothing is cropped.

    Returns:
        (3, size, size) uint8, or the cause why the image cannot be used.
    """
    image = read_image(cell, size)
    if isinstance(image, str):
        return image
    if not squash:
        image = crop_to_aspect(image)
    width, height, left, top = fit_box(*image.size, *square_input(size, squash))
    return _resize(image, width, height)[:, top : top + size, left : left + size]


def _resize(image: PILImage.Image, width: int, height: int) -> Tensor:
    """Resize an RGB image: (3, height, width) uint8.

    torch is three times as fast as Pillow here, and gives the result of transformers' image processors.
    """
    image = lower_tall(image, height, PILImage.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    if (width, height) == image.size:
        return pixels
    return F.interpolate(
        pixels[None], (height, width), mode="bicubic", antialias=True, align_corners=False
    )[0]


def decode_images(
    cells: Sequence[Cell | str | None], size: int, squash: bool = False
) -> list[Tensor | str]:
    """Return `decode_image` of each cell; large images are decoded on as many threads as torch uses."""
    decode = partial(decode_image, size=size, squash=squash)
    threads = min(torch.get_num_threads(), len(cells)) if size >= THREADED_FROM else 1
    if threads < 2:
        return [decode(cell) for cell in cells]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(decode, cells))


def encoded_bytes(cell: Cell | str | None) -> bytes:
    """Return the undecoded file of a cell; empty bytes if it has none."""
    embedded = embedded_cell(cell)
    return b"" if isinstance(embedded, str) else embedded["bytes"]


def digest_images(rows: Dataset, column: str = "image", rules: CellRules | None = None) -> str:
    """Digest of all encoded images of a column in order, wherever they are stored."""
    digest = Digest()
    for batch in rows.select_columns([column]).iter(ROWS_AT_ONCE):
        for cell in batch[column]:
            digest.add(encoded_bytes(cell if rules is None else rules(cell)))
    return digest.hex()


NUM_DRAWS = 22  # random numbers for each view
# factors of a lower resolution
MIN_REDUCTION = 2
MAX_REDUCTION = 8


@dataclass(frozen=True)
class Views:
    """The random changes of the B images of a batch, drawn on the host where the batch is made.

    Accelerate, `DataLoader` and `split` treat it like a tensor. What decides which images change stays on the host,
    so that the device never has to be waited for.

    Args:
        warp: (B, 2, 3) float32, affine map of the grid of each image.
        color: (B, 3, 4) float32, matrix of the channels of each image, and its offset.
        blurs: Amount of the blur of each image, 0..1.
        reductions: Factor of the lower resolution of each image; 1 changes nothing.
    """

    warp: Tensor
    color: Tensor
    blurs: tuple[float, ...]
    reductions: tuple[int, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Views":
        """Copy the matrices to a device."""
        return replace(
            self,
            warp=self.warp.to(device, non_blocking=non_blocking),
            color=self.color.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "Views":
        """Copy the matrices to memory from which a GPU copies without waiting."""
        return replace(self, warp=self.warp.pin_memory(), color=self.color.pin_memory())

    def split(self, size: int) -> "list[Views]":
        """Views of the chunks of a batch, with `size` images each; the last chunk may have fewer."""
        chunks = []
        for start in range(0, len(self.blurs), size):
            part = slice(start, start + size)
            views = Views(
                self.warp[part], self.color[part], self.blurs[part], self.reductions[part]
            )
            chunks.append(views)
        return chunks


@dataclass(frozen=True)
class Augment:
    """Makes a random view of each image of a batch.

    Args:
        config: Ranges of the random changes.
        seed: Seed of the views.
    """

    config: AugmentConfig
    seed: int

    @torch.autocast("cpu", enabled=False)
    def views(self, image_ids: Tensor, view_ids: Tensor) -> Views:
        """Draw the changes of images.

        Args:
            image_ids: (B,) int64, key of each image, such as its row number.
            view_ids: (B,) int64, number of the view of each image.
        """
        config = self.config
        draws = self.draws(image_ids, view_ids)
        blurs = draws[:, 10].where(draws[:, 9] < config.blur, 0.0)
        spread = (MAX_REDUCTION / MIN_REDUCTION) ** draws[:, 21]  # log-uniform
        reductions = (MIN_REDUCTION * spread).round().where(draws[:, 20] < config.downscale, 1.0)
        return Views(
            self._warps(draws[:, :6]),
            self._colors(draws[:, 6:9], draws[:, 11:20]),
            tuple(blurs.tolist()),
            tuple(map(int, reductions.tolist())),
        )

    def draws(self, image_ids: Tensor, view_ids: Tensor) -> Tensor:
        """Return the random numbers that define these views, (B, NUM_DRAWS) float32 in 0..1."""
        uniform = keyed_uniform(
            self.seed, image_ids.cpu().numpy(), view_ids.cpu().numpy(), num=NUM_DRAWS
        )
        return torch.from_numpy(uniform).float()

    def _warps(self, draws: Tensor) -> Tensor:
        config = self.config
        zoom, rotate, stretch, right, down, flip = draws.T
        scale = torch.exp2(-config.zoom * _signed(zoom))
        aspect = torch.exp2(config.stretch * _signed(stretch) / 2)
        angle = math.radians(config.rotate) * _signed(rotate)
        mirror = torch.where(flip < config.flip, -1.0, 1.0)
        cosine = angle.cos() * scale
        sine = angle.sin() * scale
        shift = 2 * config.shift  # grid coordinates range from -1 to 1
        rows = [
            torch.stack([cosine * aspect * mirror, -sine / aspect, shift * _signed(right)], 1),
            torch.stack([sine * aspect * mirror, cosine / aspect, shift * _signed(down)], 1),
        ]
        return torch.stack(rows, 1)

    def _colors(self, draws: Tensor, tints: Tensor) -> Tensor:
        """Saturation, tint, contrast and brightness. Each is affine in the channels, so one product does it."""
        config = self.config
        contrast, saturation, brightness = _signed(draws).T[:, :, None, None]  # (B, 1, 1) each
        factor = torch.exp2(config.saturation * saturation)
        identity = torch.eye(3)
        matrix = factor * identity + (1 - factor) / 3
        if config.tint:
            offsets = math.sqrt(3) * _signed(tints).unflatten(1, (3, 3))  # (B, 3, 3), unit variance
            matrix = (identity + config.tint * offsets) @ matrix
        factor = torch.exp2(config.contrast * contrast)
        offset = factor * (config.background - 128) + 128 + 255 * config.brightness * brightness
        return torch.cat([factor * matrix, offset.expand(-1, 3, 1)], 2)

    def __call__(self, images: Tensor, views: Views) -> Tensor:
        """Warp, recolor, downscale and blur images. What the configuration switches off is not computed.

        Args:
            images: (B, 3, S, S) uint8.
            views: Changes of these images, with matrices on the device of the images.

        Returns:
            (B, 3, S, S) float32 in 0..255, also under autocast, because half precision would round the values.
        """
        config = self.config
        with torch.autocast(images.device.type, enabled=False):
            # grid_sample pads with zeros, so the background is subtracted here, and in the offset of the colors
            images = images.to(torch.float32, copy=True).sub_(config.background)
            if config.zoom or config.rotate or config.stretch or config.shift or config.flip:
                grid = F.affine_grid(views.warp, list(images.shape), align_corners=False)
                images = F.grid_sample(images, grid, align_corners=False)
            if config.saturation or config.tint or config.contrast or config.brightness:
                matrix, offset = views.color.split([3, 1], 2)
                images = torch.baddbmm(offset, matrix, images.flatten(2)).view_as(images)
            else:
                images += config.background
            _downscale(images, views.reductions)
            _blur(images, views.blurs)
            return images.clamp_(0, 255)


def _downscale(images: Tensor, reductions: Sequence[int]):
    """Lower the resolution of images (B, 3, S, S) in place, all of one factor at once."""
    size = images.shape[-1]
    for factor in sorted({*reductions} - {1}):
        chosen = [image for image, by in zip(images, reductions, strict=True) if by == factor]
        small = F.interpolate(
            torch.stack(chosen), size=max(1, size // factor), mode="bilinear", antialias=True
        )
        large = F.interpolate(small, size=size, mode="bicubic")
        for image, changed in zip(chosen, large, strict=True):
            image.copy_(changed)


def _blur(images: Tensor, amounts: Sequence[float]):
    """Mix images (B, 3, S, S) in place with the mean of nine pixels."""
    chosen = [(image, amount) for image, amount in zip(images, amounts, strict=True) if amount]
    if chosen:
        sharp = torch.stack([image for image, _ in chosen])
        blurred = F.avg_pool2d(sharp, 3, 1, 1, count_include_pad=False)
        for (image, amount), mean in zip(chosen, blurred, strict=True):
            image.lerp_(mean, amount)


def _signed(draw: Tensor) -> Tensor:
    return 2 * draw - 1


@dataclass(frozen=True)
class Normalize:
    """Resizes and normalizes images as the image processor of a model does.

    Args:
        image_size: Edge of the model's input in pixels.
        mean: Mean of each channel, for values in 0..1.
        std: Standard deviation of each channel, for values in 0..1.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_processor(cls, image_processor, image_size: int) -> "Normalize":
        """Take mean and standard deviation from a transformers image processor."""
        return cls(image_size, tuple(image_processor.image_mean), tuple(image_processor.image_std))

    def __call__(self, images: Tensor) -> Tensor:
        """Normalize a batch.

        Args:
            images: (B, 3, S, S) uint8 or float in 0..255.

        Returns:
            (B, 3, image_size, image_size) float32.
        """
        if images.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            images = F.interpolate(
                images.float(), size, mode="bicubic", antialias=True, align_corners=False
            ).clamp(0, 255)
        images = images.to(torch.float32, copy=True, memory_format=torch.channels_last)
        offset, scale = _constants(self, images.device)
        # vectorize over a whole row of pixels with their channels: three channels alone would be slow
        rows = images.permute(0, 2, 3, 1).flatten(2)  # (B, S, S * 3)
        torch.addcmul(offset, rows, scale, out=rows)
        return images


@cache
def _constants(normalize: Normalize, device: torch.device) -> tuple[Tensor, Tensor]:
    """Offset and scale of a row of pixels, (S * 3,) float32, which are copied to the device once."""
    mean, std = 255 * torch.tensor([normalize.mean, normalize.std])
    rows = torch.stack([-mean / std, 1 / std]).repeat(1, normalize.image_size)
    offset, scale = rows.to(device)
    return offset, scale
