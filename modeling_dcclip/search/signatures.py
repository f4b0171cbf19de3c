"""Whether two images show the same pixels, such as before and after a messenger has compressed one of them.

Embeddings alone do not tell: screenshots of the same app are as similar as copies, whatever their words.
"""

import numpy as np
from PIL import Image

NEAR_COSINE = 0.945  # lowest similarity of the embeddings of copies that a messenger has compressed
EDGE = 40
# difference of gray values without their mean: copies of half the size or of quality 30 differ by at most 9, and
# screenshots by 19 and more if a line of their text differs
MAX_DIFFERENCE = 14


def signature(image: Image.Image) -> bytes | None:
    """The image as 40 x 40 gray values; None if it is too plain to tell it from others."""
    small = image.resize((EDGE, EDGE), Image.Resampling.HAMMING, reducing_gap=3.0).convert("L")
    return small.tobytes() if np.ptp(np.asarray(small)) > MAX_DIFFERENCE else None


def shows_the_same(first: bytes, second: bytes) -> bool:
    """Whether the images of two signatures have the same pixels, but for their size and compression."""
    pixels = np.frombuffer(first, np.uint8).astype(int)
    others = np.frombuffer(second, np.uint8).astype(int)
    shift = (pixels - others).mean()
    return max(abs(shift), np.abs(pixels - others - shift).max()) <= MAX_DIFFERENCE
