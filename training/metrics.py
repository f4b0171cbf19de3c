"""Metrics: tensors in, numbers out."""

import math

from torch import Tensor


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int) -> float:
    """Share of rows whose label is among the k highest scores.

    Args:
        scores: (N, C).
        labels: (N,) int64 in 0..C-1.
        k: 1..C.

    Returns:
        In 0..1.
    """
    return (scores.topk(k, dim=1).indices == labels[:, None]).any(1).double().mean().item()


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share.

    Args:
        share: observed, in 0..1.
        count: number of trials, at least 1.
        z: quantile of the normal distribution.

    Source: Wilson, JASA 22 (1927).
    """
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, centre - half), min(1.0, centre + half)
