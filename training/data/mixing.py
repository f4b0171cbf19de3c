"""Images between those of the data: blends of two images of a batch, and images with a rectangle of another one.

A teacher gives a target for any image. So a student that sees more than the photographs at hand also learns what its
teacher makes of images that are unlike them (function matching, Beyer et al., arXiv 2106.05237).
"""

import torch
from torch import Tensor

from training.utils.rng import keyed_uniform

STREAM = 0x6D6978  # keeps these random numbers apart from those of the views
NUM_DRAWS = 6


def mix_images(images: Tensor, rows: Tensor, view_ids: Tensor, share: float, seed: int) -> Tensor:
    """Mix images with the next one of the batch, half of them by mixup and half by CutMix.

    Args:
        images: (B, 3, S, S) float.
        rows: (B,) int64, row number of each image.
        view_ids: (B,) int64, number of the view of each image.
        share: Probability that an image is mixed, 0..1.
        seed: Seed; equal batches with equal seeds are mixed in the same way.

    Returns:
        (B, 3, S, S). Mixup (arXiv 1710.09412) blends two images with a uniform weight. CutMix (arXiv 1905.04899)
        replaces a rectangle whose area is a uniform share of the image, before it is cut at the border.
    """
    draws = torch.from_numpy(
        keyed_uniform(seed ^ STREAM, rows.cpu().numpy(), view_ids.cpu().numpy(), num=NUM_DRAWS)
    ).to(images.device, images.dtype)
    chosen, kind, amount, aspect, row, column = draws.T
    size = images.shape[-1]
    pixels = (torch.arange(size, device=images.device) + 0.5) / size
    ratio = torch.exp2(2 * aspect - 1)  # 1/2 to 2
    height, width = (amount * ratio).sqrt(), (amount / ratio).sqrt()
    is_inside = _near(pixels, row, height)[:, :, None] & _near(pixels, column, width)[:, None]  # (B, S, S)
    weight = torch.where((kind < 0.5)[:, None, None], amount[:, None, None], is_inside.to(images.dtype))
    weight = weight * (chosen < share)[:, None, None]
    return torch.lerp(images, images.roll(-1, 0), weight[:, None])


def _near(pixels: Tensor, centre: Tensor, length: Tensor) -> Tensor:
    """Whether each pixel of an edge is at most half a length from a centre, (B, S) bool."""
    return (pixels - centre[:, None]).abs() <= length[:, None] / 2
