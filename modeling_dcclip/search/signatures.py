"""Whether two images show the same pixels, such as before and after a messenger has compressed one of them.

Embeddings alone do not tell: screenshots of the same app are as similar as copies, whatever their words.
"""

from itertools import product

import numpy as np
from PIL import Image

NEAR_COSINE = 0.945  # lowest similarity of the embeddings of copies that a messenger has compressed
EDGE = 40
# difference of gray values without their mean: copies of half the size or of quality 30 differ by at most 9, and
# screenshots by 19 and more if a line of their text differs
MAX_DIFFERENCE = 14
# difference of the mean gray value, and of those between halves of the image: measured copies of a third of the size
# or of quality 20 differ by less than 1
TOLERANCE = 2
CELL = 8  # edge of the cells of the differences between halves


def signature(image: Image.Image) -> bytes | None:
    """The image as 40 x 40 gray values; None if it is too plain to tell it from others."""
    small = image.resize((EDGE, EDGE), Image.Resampling.HAMMING, reducing_gap=3.0).convert("L")
    return small.tobytes() if np.ptp(np.asarray(small)) > MAX_DIFFERENCE else None


def place_of(pixels: bytes) -> tuple[list[int], float]:
    """Where to look for the copies of an image with this signature: numbers of cells, its own first, and its tone.

    The tone is the mean gray value. A cell holds the images with about the same differences between their halves:
    upper and lower, left and right, diagonal. Copies near a border may be on its other side.
    """
    values = np.frombuffer(pixels, np.uint8).reshape(2, EDGE // 2, 2, EDGE // 2).mean((1, 3))
    (a, b), (c, d) = values.tolist()
    sides = []
    for difference in ((a + b - c - d) / 2, (a + c - b - d) / 2, (a + d - b - c) / 2):
        near = (difference, difference - TOLERANCE, difference + TOLERANCE)
        sides.append(dict.fromkeys(int(value // CELL) + 64 for value in near))
    return [(x << 16) + (y << 8) + z for x, y, z in product(*sides)], float(values.mean())


def shows_the_same(one: bytes, others: list[bytes]) -> np.ndarray:
    """Whether the image of a signature has the same pixels as those of others, but for its size and compression.

    Returns:
        (N,) bool.
    """
    pixels = np.frombuffer(b"".join(others), np.uint8).reshape(-1, EDGE * EDGE).astype(np.int16)
    differences = np.frombuffer(one, np.uint8) - pixels
    shifts = differences.mean(1, keepdims=True)
    farthest = np.abs(differences - shifts).max(1)
    return np.maximum(np.abs(shifts[:, 0]), farthest) <= MAX_DIFFERENCE
