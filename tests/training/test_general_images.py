from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from training import general_images
from training.general_images import (
    FREE_PHOTOS,
    HELD_OUT_PHOTOS,
    NUM_VIEWS,
    load_held_out,
    photo_crops,
    vary_images,
)


class Gradient:
    """A photograph whose red is the column of a pixel, and whose green is its row."""

    query: ClassVar = {"en": "a gradient", "zh": "渐变"}

    def open(self) -> Image.Image:
        ramp = Image.linear_gradient("L")
        return Image.merge("RGB", (ramp.rotate(90), ramp, ramp))


def test_crops_are_reproducible_and_differ():
    crops = photo_crops(32, 3 * len(FREE_PHOTOS))
    assert torch.equal(photo_crops(32, 4), crops[:4])
    assert len(crops.unique(dim=0)) == len(crops) == 3 * len(FREE_PHOTOS)


def test_crops_have_all_areas_and_half_of_them_are_mirrored(monkeypatch):
    monkeypatch.setattr(general_images, "FREE_PHOTOS", [Gradient()])
    crops = photo_crops(64, 200).float() / 255
    width = crops[:, 0, 32, -1] - crops[:, 0, 32, 0]
    area = width.abs() * (crops[:, 1, -1, 32] - crops[:, 1, 0, 32])
    assert 0.4 < (width < 0).float().mean() < 0.6
    assert 0.02 < area.min() < 0.05 and area.max() > 0.8
    assert 0.15 < area.median() < 0.25  # log-uniform


def test_held_out_photographs_are_not_those_of_the_crops_and_have_distinct_views(monkeypatch):
    assert not {photo.file for photo in HELD_OUT_PHOTOS} & {photo.file for photo in FREE_PHOTOS}
    smallest = HELD_OUT_PHOTOS[-3:]  # the others take seconds
    monkeypatch.setattr(general_images, "HELD_OUT_PHOTOS", smallest)
    rows = load_held_out()
    views = {np.asarray(image).tobytes() for image in rows["image"]}
    assert len(views) == len(rows) == NUM_VIEWS * len(smallest)
    assert rows["zh"] == [[photo.query["zh"]] for photo in smallest for _ in range(NUM_VIEWS)]


def test_half_of_the_images_are_blended_with_the_next_one(monkeypatch):
    monkeypatch.setattr(
        general_images.Augment, "__call__", lambda self, images, views: images.float()
    )
    monkeypatch.setattr(general_images, "ROWS_AT_ONCE", 150)
    images = torch.tensor([0, 200], dtype=torch.uint8).repeat(150)[:, None, None, None]
    images = images.expand(-1, 3, 4, 4)
    varied = vary_images(images)
    assert varied.shape == images.shape and varied.dtype == torch.uint8
    differences = (varied.int() - images.int()).abs().flatten(1)
    assert (differences == differences[:, :1]).all()  # one weight for each image
    blended = differences[:, 0][differences[:, 0] > 0].float()
    assert 120 < len(blended) < 180 and 85 < blended.mean() < 115
    assert torch.equal(varied, vary_images(images))
