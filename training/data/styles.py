"""Images redrawn as paintings and as pencil drawings, so that a model also knows things that are not photographed."""

import torch
import torch.nn.functional as F
from torch import Tensor


def paint(images: Tensor, radius: int) -> Tensor:
    """Repaint images in flat strokes with sharp edges (Kuwahara et al., 1976).

    Args:
        images: (B, 3, S, S) float; values outside 0..255 are clipped.
        radius: Size of the strokes in pixels, 1..S - 1.

    Returns:
        (B, 3, S, S). A pixel is the mean of the most even of the four squares of edge `radius + 1` that have it as
        a corner.
    """
    size, edge = images.shape[-1], radius + 1
    padded = F.pad(images.clamp(0, 255), [radius] * 4, mode="replicate")
    grey = padded.mean(1, keepdim=True)
    means = F.avg_pool2d(padded, edge, 1)  # (B, 3, S + radius, S + radius)
    spread = F.avg_pool2d(grey.square(), edge, 1) - F.avg_pool2d(grey, edge, 1).square()
    starts = [(row, column) for row in (0, radius) for column in (0, radius)]
    squares = [(slice(row, row + size), slice(column, column + size)) for row, column in starts]
    painted, least = means[(..., *squares[0])], spread[(..., *squares[0])]
    for square in squares[1:]:
        is_more_even = spread[(..., *square)] < least
        painted = torch.where(is_more_even, means[(..., *square)], painted)
        least = torch.minimum(spread[(..., *square)], least)
    return painted


def sketch(images: Tensor, radius: int) -> Tensor:
    """Redraw images in pencil: grey divided by its surroundings, so that edges stay and even areas turn white.

    Args:
        images: (B, 3, S, S) float; values outside 0..255 are clipped.
        radius: Reach of the surroundings in pixels, at least 1.

    Returns:
        (B, 3, S, S) in shades of grey.
    """
    grey = images.clamp(0, 255).mean(1, keepdim=True)
    edge = 2 * radius + 1
    surroundings = grey
    for _ in range(2):  # two box filters are close to a Gaussian one
        surroundings = F.avg_pool2d(surroundings, edge, 1, radius, count_include_pad=False)
    return (255 * grey / surroundings.clamp_min(1)).clamp_max(255).expand_as(images)
