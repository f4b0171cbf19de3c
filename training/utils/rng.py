"""Random numbers keyed by (seed, keys) instead of drawn from a stream.

A resumed run therefore equals an uninterrupted one.
"""

import numpy as np

_INCREMENT = np.uint64(0x9E3779B97F4A7C15)  # increment of SplitMix64


def keyed_uniform(seed: int, *keys: np.ndarray | int, num: int) -> np.ndarray:
    """Return uniform numbers in [0, 1) that are a pure function of seed and keys.

    Args:
        seed: Any integer.
        keys: Integers or integer arrays of shape (B,). Their order matters.
        num: How many numbers to return for each row.

    Returns:
        (B, num) float64.

    Source: SplitMix64 (Steele et al., OOPSLA 2014), used as a hash.
    """
    state = _mix(np.array(np.uint64(seed & (2**64 - 1))))  # else seed and first key would be added
    for key in keys:
        state = _mix(state + np.asarray(key).astype(np.uint64))
    steps = np.arange(1, num + 1, dtype=np.uint64) * _INCREMENT
    mixed = _mix(np.atleast_1d(state)[:, None] + steps)  # (B, num)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(value: np.ndarray) -> np.ndarray:
    """Apply one step of SplitMix64 to each number."""
    with np.errstate(over="ignore"):
        value = (np.asarray(value) + _INCREMENT).astype(np.uint64)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))
