"""Image checks, perceptual hashes, and near-duplicate search against comparing all pairs."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image as PILImage

from tests.training.data.rows import make_cell
from training.prepare.duplicates import (
    colours,
    examine_image,
    match_images,
    normalise,
    perceptual_hash,
)


def low_contrast_image(contrast: int) -> PILImage.Image:
    """An image with a brighter half: the standard deviation of its brightness is half of `contrast`."""
    image = PILImage.new("L", (64, 64), 100)
    image.paste(100 + contrast, (0, 0, 32, 64))
    return image.convert("RGB")


def distance(one: PILImage.Image, other: PILImage.Image) -> int:
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


def colour_distance(one: PILImage.Image, other: PILImage.Image) -> float:
    return float(np.abs(colours(one).astype(int) - colours(other)).mean())


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "cause"),
    [
        ({"min_edge": 64}, (64, 64), (63, 64), "image too small"),
        ({"max_aspect_ratio": 2}, (64, 128), (130, 64), "extreme aspect ratio"),
        ({"min_contrast": 4.0}, 8, 7, "blank image"),
    ],
)
def test_each_check_keeps_images_inside_and_drops_images_outside_its_threshold(
    images, limits, inside, outside, cause
):
    for value, expected in ((inside, None), (outside, cause)):
        image = low_contrast_image(value) if isinstance(value, int) else images[0].resize(value)
        assert examine_image(make_cell(image), **limits).cause == expected
        assert examine_image(make_cell(image)).cause is None


def test_unreadable_images_are_reported_by_cause(images, monkeypatch, tmp_path):
    whole = make_cell(images[0])["bytes"]
    for damaged in (b"", b"not an image", whole[: len(whole) // 2]):
        assert examine_image({"bytes": damaged, "path": None}).cause == "image does not decode"
    for absent in (None, {"bytes": None, "path": None}):
        assert examine_image(absent).cause == "no image"
    assert (
        examine_image({"bytes": None, "path": str(tmp_path / "gone.png")}).cause
        == "image file is missing"
    )
    assert examine_image("image is a URL").cause == "image is a URL"
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses twice as many
    assert examine_image(make_cell(images[0])).cause == "decompression bomb"


def test_hash_survives_scaling_compression_and_brightness_and_separates_images(images):
    for image in images:
        again = PILImage.open(
            BytesIO(make_cell(image.resize((96, 96)), "JPEG", quality=60)["bytes"])
        )
        assert distance(image, again) <= 4 and colour_distance(image, again) <= 4
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


def test_thumbnail_distinguishes_the_same_image_in_other_colours(images):
    luminance = PILImage.merge("RGB", [images[0].convert("L")] * 3)
    assert distance(images[0], luminance) <= 1  # the hash ignores colour
    assert colour_distance(images[0], luminance) > 4
    both = [images[0], luminance]
    hashes, thumbnails = (
        np.array([perceptual_hash(i) for i in both], np.uint64),
        np.array([colours(i) for i in both]),
    )
    assert match_images(hashes, thumbnails, 4, 4.0).tolist() == [0, 1]
    assert match_images(hashes, thumbnails, 4, 255.0).tolist() == [0, 0]


def clustered_hashes(num: int) -> np.ndarray:
    """Random hashes around a few centres, with pairs at every distance, including equal ones."""
    draw = np.random.default_rng(0)
    centres = draw.integers(0, 2**64, num // 8, dtype=np.uint64)
    hashes = centres[draw.integers(0, len(centres), num)]
    for _ in range(5):
        flips = np.uint64(1) << draw.integers(0, 64, num, dtype=np.uint64)
        hashes ^= np.where(draw.random(num) < 0.4, flips, np.uint64(0))
    return hashes


def slow_match(hashes: np.ndarray, distance: int, num_reference: int) -> list[int]:
    """Reference that compares all pairs."""
    match: list[int] = []
    for row, one in enumerate(hashes.tolist()):
        earlier = (
            range(num_reference if row >= num_reference else 0) if num_reference else range(row)
        )
        others = [n for n in earlier if match[n] == n]
        near = [n for n in others if (one ^ int(hashes[n])).bit_count() <= distance]
        match.append([*near, row][0])
    return match


@pytest.mark.parametrize("num_reference", [0, 60])
@pytest.mark.parametrize("distance", [0, 1, 4, 15])
def test_bands_give_the_matches_of_comparing_all_pairs(distance, num_reference):
    hashes = clustered_hashes(300)
    match = match_images(hashes, np.zeros((300, 48), np.uint8), distance, 0.0, num_reference)
    assert match.tolist() == slow_match(hashes, distance, num_reference)
    assert 0 < (match != np.arange(300)).sum() < 300
    none = np.zeros(0, np.uint64)
    assert match_images(none, np.zeros((0, 48), np.uint8), distance, 0.0).tolist() == []


def test_texts_are_compared_without_case_width_and_punctuation():
    assert normalise("  A RED-apple!  ") == normalise("a red ａｐｐｌｅ") == "a red apple"
    assert normalise("红苹果。") == "红苹果"
