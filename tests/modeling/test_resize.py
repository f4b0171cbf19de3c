"""The resize of the runtime against integer sums, on pixels at both ends of their range."""

import numpy as np
import pytest

from modeling_dcclip import runtime_dcclip
from modeling_dcclip.runtime_dcclip import _bicubic, _bilinear, _blocks, _resize, _weights

SIZES = [(500, 341), (375, 256), (190, 96), (97, 96), (40, 96), (900, 96)]


def resize_with_integers(pixels: np.ndarray, size: int, kernel: runtime_dcclip.Kernel) -> np.ndarray:
    """Resize the last axis with 64-bit sums."""
    first, weights, precision = _weights(pixels.shape[2], size, slice(0, size), kernel)
    columns = np.minimum(first[:, None] + np.arange(weights.shape[1]), pixels.shape[2] - 1)  # (size, taps)
    total = (pixels.astype(np.int64)[:, :, columns] * weights.astype(np.int64)).sum(-1)
    return ((total + (1 << (precision - 1))) >> precision).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kernel", [_bicubic, _bilinear])
@pytest.mark.parametrize(("old", "size"), SIZES)
def test_sums_are_exact(old, size, kernel):
    pixels = np.random.default_rng(old).choice(np.array([0, 1, 127, 254, 255], np.uint8), (3, 12, old))
    expected = resize_with_integers(pixels, size, kernel)
    np.testing.assert_array_equal(_resize(pixels, 2, size, slice(0, size), kernel), expected)
    upright = np.ascontiguousarray(pixels.swapaxes(1, 2))
    np.testing.assert_array_equal(_resize(upright, 1, size, slice(0, size), kernel), expected.swapaxes(1, 2))
    window = slice(size // 4, size // 2)
    np.testing.assert_array_equal(_resize(pixels, 2, size, window, kernel), expected[:, :, window])


def test_single_precision_is_used_where_sums_fit():
    types = {old: _blocks(old, size, 0, size, _bicubic)[0][3].dtype for old, size in SIZES}
    assert types[500] == types[97] == types[40] == np.float32 and types[900] == np.float64
