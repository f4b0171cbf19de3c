"""Random views of pictures, a batch at a time, and the normalisation that a model's image processor asks for.

Every random number is a hash of (seed, picture, view): a view is the same in any batch, worker, process or run. That
is why this is not torchvision's v2, whose random parameters come from one global stream, a picture at a time.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import AugmentConfig

NUM_DRAWS = 20


def keyed_uniform(seed: int, *keys: np.ndarray | int, num: int) -> np.ndarray:
    """Uniform numbers in [0, 1) that are a pure function of their keys.

    Args:
        seed: any integer.
        keys: integers or integer arrays of shape (B,).
        num: how many numbers a row.

    Returns:
        (B, num) float64.

    Source: SplitMix64 (Steele et al., OOPSLA 2014), used as a hash.
    """
    state = np.array(np.uint64(seed & (2**64 - 1)))
    for key in keys:
        state = _mix(state + np.asarray(key).astype(np.uint64))
    state = np.atleast_1d(state)[:, None] + np.arange(1, num + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (_mix(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(value: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        value = (np.asarray(value) + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


@dataclass(frozen=True)
class Augment:
    """Makes view number `view` of each picture of a batch."""

    config: AugmentConfig
    seed: int

    def __call__(self, pictures: Tensor, picture_ids: Tensor, views: Tensor) -> Tensor:
        """Warp and recolour.

        Args:
            pictures: (B, 3, S, S) uint8.
            picture_ids: (B,) int64, the key of each picture.
            views: (B,) int64, the number of the view.

        Returns:
            (B, 3, S, S) float32 in 0..255.
        """
        draws = self.draws(picture_ids, views).to(pictures.device)
        warped = self._warp(pictures.float(), draws[:, :6])
        return self._recolour(warped, draws[:, 6:]).clamp(0, 255)

    def draws(self, picture_ids: Tensor, views: Tensor) -> Tensor:
        """The random numbers (B, NUM_DRAWS) in 0..1 that make these views."""
        uniform = keyed_uniform(self.seed, picture_ids.cpu().numpy(), views.cpu().numpy(), num=NUM_DRAWS)
        return torch.from_numpy(uniform).float()

    def _warp(self, pictures: Tensor, draws: Tensor) -> Tensor:
        config, (zoom, rotate, stretch, right, down, flip) = self.config, draws.T
        scale = torch.exp2(-config.zoom * _signed(zoom))
        aspect = torch.exp2(config.stretch * _signed(stretch) / 2)
        angle = math.radians(config.rotate) * _signed(rotate)
        mirror = torch.where(flip < config.flip, -1.0, 1.0)
        cosine, sine = angle.cos() * scale, angle.sin() * scale
        shift = 2 * config.shift  # grid coordinates span 2
        rows = [
            torch.stack([cosine * aspect * mirror, -sine / aspect, shift * _signed(right)], 1),
            torch.stack([sine * aspect * mirror, cosine / aspect, shift * _signed(down)], 1),
        ]
        grid = F.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
        # sampling pads with zero, so what lies outside is made zero first
        return F.grid_sample(pictures - config.background, grid, align_corners=False) + config.background

    def _recolour(self, pictures: Tensor, draws: Tensor) -> Tensor:
        config = self.config
        contrast, saturation, brightness, blur, strength = (column[:, None, None, None] for column in draws[:, :5].T)
        grey = pictures.mean(1, keepdim=True)
        pictures = grey + (pictures - grey) * torch.exp2(config.saturation * _signed(saturation))
        if config.tint:
            offsets = math.sqrt(3) * _signed(draws[:, 5:14]).unflatten(1, (3, 3))  # uniform, of unit variance
            mixing = torch.eye(3, device=pictures.device) + config.tint * offsets
            pictures = torch.einsum("bij,bjhw->bihw", mixing, pictures - config.background) + config.background
        pictures = (pictures - 128) * torch.exp2(config.contrast * _signed(contrast)) + 128
        pictures = pictures + 255 * config.brightness * _signed(brightness)
        if config.blur:
            blurred = F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
            pictures = torch.lerp(pictures, blurred, (blur < config.blur).float() * strength)
        return pictures


def _signed(draw: Tensor) -> Tensor:
    return 2 * draw - 1


@dataclass(frozen=True)
class Normalize:
    """The last steps of a model's own image processor: resize and normalise.

    Args:
        image_size: edge of the model's input.
        mean: per channel, for values in 0..1.
        std: per channel.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_processor(cls, image_processor, image_size: int) -> "Normalize":
        """Read mean and standard deviation from a transformers image processor."""
        return cls(image_size, tuple(image_processor.image_mean), tuple(image_processor.image_std))

    def __call__(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) in 0..255, uint8 or float, to (B, 3, image_size, image_size) float32."""
        pictures = pictures.float()
        if pictures.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            pictures = F.interpolate(pictures, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)
        mean, std = (
            torch.tensor(values, device=pictures.device)[:, None, None] * 255 for values in (self.mean, self.std)
        )
        return ((pictures - mean) / std).contiguous(memory_format=torch.channels_last)
