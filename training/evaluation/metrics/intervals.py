"""Confidence intervals."""

import math


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % confidence interval of a share.

    Args:
        share: Observed share, in 0..1.
        count: Number of trials, at least 1.
        z: Quantile of the normal distribution.

    Returns:
        Lower and upper bound, in 0..1.

    Source: Wilson, JASA 22 (1927).
    """
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, centre - half), min(1.0, centre + half)
