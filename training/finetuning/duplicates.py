"""Near-duplicates of images, by perceptual hashes, color thumbnails and embeddings."""

import numpy as np
from PIL import Image as PILImage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

IMAGES_AT_ONCE = 256
MAX_IMAGE_DISTANCE = 4  # differing hash bits of near-duplicates
MAX_COLOR_DISTANCE = 4.0  # mean difference of their 4 x 4 thumbnails, 0..255
# cosine of two images by the starting model above which they count as near-duplicates. With dcclip-tiny-photo, at
# least 95 % of brightened, mirrored, framed, compressed, rotated or slightly cropped copies are above it, 90 % of
# watermarked ones, 75 % of those cropped by a tenth, half of the gray ones, and hardly any unrelated photographs
MAX_COSINE = 0.9
HASH_EDGE = 8
GRAY_EDGE = 32
HASH_MARGIN = 0.05
COLOR_EDGE = 4
# the 8 lowest frequencies of a cosine transform (DCT-II) of 32 values
_COSINES = np.cos(
    np.pi * np.outer(np.arange(HASH_EDGE), 2 * np.arange(GRAY_EDGE) + 1) / (2 * GRAY_EDGE)
)


def perceptual_hash(image: PILImage.Image) -> int:
    """A 64-bit hash that is robust to scaling, recompression and small changes in brightness.

    Each bit records whether one of the 8 x 8 lowest frequencies of the grayscale image exceeds their median by a
    margin. Without it, half of the bits of a flat or symmetric image are noise: `imagehash.phash` differs in up to 30
    bits between an emoji and its JPEG copy, this hash in up to 3.

    Source: pHash as in Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), ch. 3.2.1;
    the margin is our addition.
    """
    gray = np.asarray(
        image.convert("L").resize((GRAY_EDGE, GRAY_EDGE), PILImage.Resampling.LANCZOS), np.float64
    )
    frequencies = (_COSINES @ gray @ _COSINES.T).ravel()
    others = frequencies[1:]  # skip the DC coefficient, the mean brightness
    bits = frequencies > np.median(others) + HASH_MARGIN * np.abs(others).mean()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumbnail(image: PILImage.Image) -> np.ndarray:
    """RGB thumbnail of 4 x 4 pixels, (48,) uint8. It separates a red shape from the same shape in green."""
    return np.asarray(
        image.resize((COLOR_EDGE, COLOR_EDGE), PILImage.Resampling.BOX), np.uint8
    ).ravel()


def group_images(
    hashes: np.ndarray, colors: np.ndarray, embeddings: np.ndarray | None
) -> np.ndarray:
    """Number of the group of near-duplicates of each image, (N,).

    Args:
        hashes: Perceptual hashes, (N,) uint64.
        colors: Color thumbnails, (N, 48) uint8.
        embeddings: Embeddings of the images, (N, D) float32, L2-normalized; None compares hashes alone.
    """
    numbers = np.arange(len(hashes))
    members = numbers
    for start in range(0, len(hashes), IMAGES_AT_ONCE):
        part = slice(start, start + IMAGES_AT_ONCE)
        one, other = np.nonzero(np.bitwise_count(hashes[part, None] ^ hashes) <= MAX_IMAGE_DISTANCE)
        alike = (
            np.abs(colors[part][one].astype(np.int16) - colors[other]).mean(1) <= MAX_COLOR_DISTANCE
        )
        edges = [
            (numbers, np.unique(members, return_index=True)[1][members]),
            (start + one[alike], other[alike]),
        ]
        if embeddings is not None:
            one, other = np.nonzero(embeddings[part] @ embeddings.T > MAX_COSINE)
            edges.append((start + one, other))
        first, second = map(np.concatenate, zip(*edges, strict=True))
        graph = csr_array((np.ones(len(first), bool), (first, second)), (len(hashes), len(hashes)))
        _, members = connected_components(graph, directed=False)
    return members
