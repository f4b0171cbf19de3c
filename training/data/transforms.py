"""Random views of images, and the normalization of a model's image processor. Both work on whole batches.

Every random number is a hash of (seed, image, view), so a view is the same in any batch, worker, process or run.
torchvision's v2 transforms are not used, because they draw from one global stream, image by image.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import AugmentConfig
from training.utils.rng import keyed_uniform

NUM_DRAWS = 22  # random numbers for each view
MIN_REDUCTION, MAX_REDUCTION = 2, 8  # factors of a lower resolution


@dataclass(frozen=True)
class Augment:
    """Makes a random view of each image of a batch.

    Args:
        config: Ranges of the random changes.
        seed: Seed of the views.
    """

    config: AugmentConfig
    seed: int

    def __call__(self, images: Tensor, image_ids: Tensor, view_ids: Tensor) -> Tensor:
        """Warp, recolor, downscale and blur images.

        Args:
            images: (B, 3, S, S) uint8.
            image_ids: (B,) int64, key of each image, such as its row number.
            view_ids: (B,) int64, number of the view of each image.

        Returns:
            (B, 3, S, S) float32 in 0..255, also under autocast, because half precision would round the values.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self._view(images, image_ids, view_ids)

    def _view(self, images: Tensor, image_ids: Tensor, view_ids: Tensor) -> Tensor:
        draws = self.draws(image_ids, view_ids).to(images.device)
        # grid_sample pads with zeros, so subtract the background here; _recolor adds it again
        warped = self._warp(images.to(torch.float32, copy=True).sub_(self.config.background), draws[:, :6])
        recolored = self._recolor(warped, draws[:, 6:])
        return self._blur(self._downscale(recolored, draws[:, 20:22]), draws[:, 6:]).clamp_(0, 255)

    def draws(self, image_ids: Tensor, view_ids: Tensor) -> Tensor:
        """Return the random numbers that define these views.

        Args:
            image_ids: (B,) int64, key of each image.
            view_ids: (B,) int64, number of the view of each image.

        Returns:
            (B, NUM_DRAWS) float32 in 0..1.
        """
        uniform = keyed_uniform(self.seed, image_ids.cpu().numpy(), view_ids.cpu().numpy(), num=NUM_DRAWS)
        return torch.from_numpy(uniform).float()

    def _warp(self, images: Tensor, draws: Tensor) -> Tensor:
        config, (zoom, rotate, stretch, right, down, flip) = self.config, draws.T
        scale = torch.exp2(-config.zoom * _signed(zoom))
        aspect = torch.exp2(config.stretch * _signed(stretch) / 2)
        angle = math.radians(config.rotate) * _signed(rotate)
        mirror = torch.where(flip < config.flip, -1.0, 1.0)
        cosine, sine = angle.cos() * scale, angle.sin() * scale
        shift = 2 * config.shift  # grid coordinates range from -1 to 1
        rows = [
            torch.stack([cosine * aspect * mirror, -sine / aspect, shift * _signed(right)], 1),
            torch.stack([sine * aspect * mirror, cosine / aspect, shift * _signed(down)], 1),
        ]
        grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)

    def _recolor(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change saturation, tint, contrast and brightness. Each is affine in the channels, so one product does it."""
        config = self.config
        contrast, saturation, brightness = (_signed(column)[:, None, None] for column in draws[:, :3].T)
        factor = torch.exp2(config.saturation * saturation)
        identity = torch.eye(3, device=images.device)
        matrix = factor * identity + (1 - factor) / 3
        if config.tint:
            offsets = math.sqrt(3) * _signed(draws[:, 5:14]).unflatten(1, (3, 3))  # (B, 3, 3), unit variance
            matrix = (identity + config.tint * offsets) @ matrix
        factor = torch.exp2(config.contrast * contrast)
        offset = factor * (config.background - 128) + 128 + 255 * config.brightness * brightness
        flat = images.flatten(2)  # (B, 3, H * W)
        return torch.baddbmm(offset.expand(-1, 3, 1), factor * matrix, flat).unflatten(2, images.shape[2:])

    def _downscale(self, images: Tensor, draws: Tensor) -> Tensor:
        chosen, amount = draws.T
        factors = (MIN_REDUCTION * (MAX_REDUCTION / MIN_REDUCTION) ** amount).round().long()  # log-uniform
        factors = factors.where(chosen < self.config.downscale, 1)
        size = images.shape[-1]
        for factor in factors[factors > 1].unique().tolist():
            reduced = factors == factor
            small = F.interpolate(images[reduced], size=max(1, size // factor), mode="bilinear", antialias=True)
            images[reduced] = F.interpolate(small, size=size, mode="bicubic")
        return images

    def _blur(self, images: Tensor, draws: Tensor) -> Tensor:
        chosen = draws[:, 3] < self.config.blur
        if chosen.any():
            sharp = images[chosen]
            blurred = F.avg_pool2d(sharp, 3, 1, 1, count_include_pad=False)
            images[chosen] = torch.lerp(sharp, blurred, draws[chosen, 4, None, None, None])
        return images


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
            images = F.interpolate(images.float(), size, mode="bicubic", antialias=True, align_corners=False).clamp(
                0, 255
            )
        images = images.to(torch.float32, copy=True, memory_format=torch.channels_last)
        mean, std = (torch.tensor(values, device=images.device) * 255 for values in (self.mean, self.std))
        # vectorize over a whole row of pixels with their channels: three channels alone would be slow
        rows = images.permute(0, 2, 3, 1).flatten(2)  # (B, S, S * 3)
        torch.addcmul((-mean / std).repeat(self.image_size), rows, (1 / std).repeat(self.image_size), out=rows)
        return images
