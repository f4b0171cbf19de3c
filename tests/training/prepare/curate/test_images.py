from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image as PILImage

from training.prepare.curate.images import colours, examine_image, perceptual_hash
from training.prepare.curate.near_duplicates import hamming_distance
from training.prepare.curate.options import CurateOptions

OFF = CurateOptions(data="x", output_dir="y", min_edge=None, max_aspect_ratio=None, min_contrast=None)


def cell(image: PILImage.Image, kind: str = "PNG", **options) -> dict:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def low_contrast_image(contrast: int) -> PILImage.Image:
    """An image with a brighter half: the standard deviation of its brightness is half of `contrast`."""
    image = PILImage.new("L", (64, 64), 100)
    image.paste(100 + contrast, (0, 0, 32, 64))
    return image.convert("RGB")


def distance(one: PILImage.Image, other: PILImage.Image) -> int:
    hashes = np.array([perceptual_hash(one), perceptual_hash(other)], np.uint64)
    return int(hamming_distance(hashes[0], hashes[1:])[0])


def colour_distance(one: PILImage.Image, other: PILImage.Image) -> float:
    return float(np.abs(colours(one).astype(int) - colours(other)).mean())


def resized_to(width: int, height: int):
    return lambda image: image.resize((width, height))


@pytest.mark.parametrize(
    ("changes", "inside", "outside", "cause"),
    [
        ({"min_edge": 64}, resized_to(64, 64), resized_to(63, 64), "image too small"),
        ({"max_aspect_ratio": 2}, resized_to(64, 128), resized_to(130, 64), "extreme aspect ratio"),
        ({"max_pixels": 64 * 64}, resized_to(64, 64), resized_to(64, 65), "decompression bomb"),
        ({"min_contrast": 4.0}, lambda _: low_contrast_image(8), lambda _: low_contrast_image(7), "blank image"),
    ],
)  # fmt: skip
def test_each_filter_keeps_images_inside_and_drops_images_outside_its_threshold(
    images, changes, inside, outside, cause
):
    options = replace(OFF, **changes)
    assert examine_image(cell(inside(images[0])), options).cause is None
    assert examine_image(cell(outside(images[0])), options).cause == cause
    if "max_pixels" not in changes:
        assert examine_image(cell(outside(images[0])), OFF).cause is None


def test_unreadable_images_are_reported_by_cause(images, monkeypatch, tmp_path):
    whole = cell(images[0])["bytes"]
    for damaged in (b"", b"not an image", whole[: len(whole) // 2]):
        assert examine_image({"bytes": damaged, "path": None}, OFF).cause == "image does not decode"
    for absent in (None, {"bytes": None, "path": None}):
        assert examine_image(absent, OFF).cause == "no image"
    assert examine_image({"bytes": None, "path": str(tmp_path / "gone.png")}, OFF).cause == "image does not decode"
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses twice as many
    assert examine_image(cell(images[0]), OFF).cause == "decompression bomb"


def test_image_is_read_from_a_path(images, tmp_path):
    images[0].save(tmp_path / "a.png")
    examined = examine_image({"bytes": None, "path": str(tmp_path / "a.png")}, OFF)
    assert examined.cause is None and examined.hash == perceptual_hash(images[0])


def test_hash_survives_scaling_compression_and_brightness(images):
    for image in images:
        again = PILImage.open(BytesIO(cell(image.resize((96, 96)), "JPEG", quality=60)["bytes"]))
        assert distance(image, again) <= 4 and colour_distance(image, again) <= 4
        assert distance(image, image.point([round(0.9 * value) for value in range(256)] * 3)) <= 4


def test_hash_of_a_symmetric_image_is_robust_to_noise(images):
    left = images[0].crop((0, 0, 32, 64))
    symmetric = PILImage.new("RGB", (64, 64))
    symmetric.paste(left, (0, 0))
    symmetric.paste(left.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT), (32, 0))
    noise = np.random.default_rng(0).integers(-3, 4, (64, 64, 3))
    noisy = PILImage.fromarray((np.asarray(symmetric).astype(int) + noise).clip(0, 255).astype(np.uint8))
    assert distance(symmetric, noisy) <= 4


def test_hashes_of_different_images_are_far_apart(images):
    distances = [distance(one, other) for n, one in enumerate(images) for other in images[:n]]
    assert min(distances) > 8 and np.mean(distances) > 20


def test_thumbnail_distinguishes_the_same_image_in_other_colours(images):
    blue, green, red = images[0].split()[::-1]
    other = PILImage.merge("RGB", (green, red, blue))
    luminance = PILImage.merge("RGB", [images[0].convert("L")] * 3)
    assert distance(images[0], luminance) <= 1  # the hash ignores colour
    assert max(colour_distance(images[0], luminance), colour_distance(images[0], other)) > 4
