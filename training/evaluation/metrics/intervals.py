"""Confidence intervals."""

import math

from torch import Tensor


def wilson_interval(share: float, count: float, z: float = 1.959964) -> tuple[float, float]:
    """95 % confidence interval of a share.

    Args:
        share: Observed share, in 0..1.
        count: Number of independent trials, at least 1.
        z: Quantile of the normal distribution.

    Returns:
        Lower and upper bound, in 0..1.

    Source: Wilson, JASA 22 (1927).
    """
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def grouped_interval(hits: Tensor, groups: Tensor) -> tuple[float, float]:
    """95 % confidence interval of a share of trials that come in groups, such as the captions of an image.

    Trials of a group tend to succeed together, so they count as fewer: as many as would give a share of independent
    trials the variance that is observed between the groups.

    Args:
        hits: Whether each trial succeeded, (N,) bool.
        groups: Group of each trial, (N,) int64.

    Returns:
        Lower and upper bound, in 0..1.

    Relations: `wilson_interval` of N trials if each group has one, and about that of the groups if all trials of a
        group are equal.

    Source: Kish, Survey Sampling (1965), for the effective number; Wilson, JASA 22 (1927).
    """
    successes, sizes = (groups.bincount(weights).double() for weights in (hits.double(), None))
    share, count = float(successes.sum() / len(hits)), float(len(hits))
    variance = float((successes - share * sizes).square().sum()) / count**2  # of the share
    if share in (0.0, 1.0):  # nothing is known about the variance
        return wilson_interval(share, float((sizes > 0).sum()))
    return wilson_interval(share, min(count, share * (1 - share) / variance) if variance else count)
