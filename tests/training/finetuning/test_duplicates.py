"""Perceptual hashes, thumbnails and groups of near-duplicates."""

from io import BytesIO

import numpy as np
from PIL import Image as PILImage

from tests.training.data.rows import make_cell
from training.finetuning.duplicates import group_images, perceptual_hash, thumbnail


def distance(one: PILImage.Image, other: PILImage.Image) -> int:
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


def color_distance(one: PILImage.Image, other: PILImage.Image) -> float:
    return float(np.abs(thumbnail(one).astype(int) - thumbnail(other)).mean())


def test_hash_survives_scaling_compression_and_brightness_and_separates_images(images):
    for image in images:
        again = PILImage.open(
            BytesIO(make_cell(image.resize((96, 96)), "JPEG", quality=60)["bytes"])
        )
        assert distance(image, again) <= 4 and color_distance(image, again) <= 4
        assert distance(image, image.point([round(0.9 * value) for value in range(256)] * 3)) <= 4
    distances = [distance(one, other) for n, one in enumerate(images) for other in images[:n]]
    assert min(distances) > 8 and np.mean(distances) > 20


def test_hash_of_a_symmetric_image_is_robust_to_noise(images):
    left = images[0].crop((0, 0, 32, 64))
    symmetric = PILImage.new("RGB", (64, 64))
    symmetric.paste(left, (0, 0))
    symmetric.paste(left.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT), (32, 0))
    noise = np.random.default_rng(0).integers(-3, 4, (64, 64, 3))
    noisy = PILImage.fromarray(
        (np.asarray(symmetric).astype(int) + noise).clip(0, 255).astype(np.uint8)
    )
    assert distance(symmetric, noisy) <= 4


def test_thumbnail_distinguishes_the_same_image_in_other_colors(images):
    luminance = PILImage.merge("RGB", [images[0].convert("L")] * 3)
    assert distance(images[0], luminance) <= 1  # the hash ignores color
    assert color_distance(images[0], luminance) > 4
    hashes = np.array([perceptual_hash(each) for each in (images[0], luminance)], np.uint64)
    colors = np.stack([thumbnail(images[0]), thumbnail(luminance)])
    assert group_images(hashes, colors, None).tolist() == [0, 1]
    assert group_images(hashes, colors[[0, 0]], None).tolist() == [0, 0]
