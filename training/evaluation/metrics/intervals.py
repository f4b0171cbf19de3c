"""How sure a share is."""

import math


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
