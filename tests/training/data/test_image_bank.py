"""Images that stay in memory for a whole run."""

import pytest
import torch
from datasets import Dataset, Features, Image

from training.config import DataConfig
from training.data import image_bank
from training.data.image_bank import load_images, mix_images
from training.data.images import decode_image

CONFIG = DataConfig(train="unused")
SIZE = 32


def write(path, images) -> str:
    Dataset.from_dict({"image": images}, features=Features({"image": Image()})).to_parquet(path)
    return str(path)


def test_images_are_decoded_as_in_training(tmp_path, images):
    source = write(tmp_path / "a.parquet", images[:5])
    loaded = load_images(source, CONFIG, SIZE)
    cells = Dataset.from_parquet(source).cast_column("image", Image(decode=False))["image"]
    assert loaded.dtype == torch.uint8
    torch.testing.assert_close(loaded, torch.stack([decode_image(cell, SIZE) for cell in cells]))


def test_of_many_images_evenly_spaced_ones_are_taken(tmp_path, images, monkeypatch):
    everything = load_images(write(tmp_path / "a.parquet", images[:5]), CONFIG, SIZE)
    monkeypatch.setattr(image_bank, "MAX_IMAGES", 3)
    torch.testing.assert_close(
        load_images(str(tmp_path / "a.parquet"), CONFIG, SIZE), everything[::2]
    )


def test_images_that_cannot_be_used_are_named(tmp_path, images):
    source = write(tmp_path / "a.parquet", [*images[:2], {"bytes": b"no image", "path": None}])
    with pytest.raises(
        ValueError, match=r"photos: row 2 of .*: image does not decode. Fix or remove the row"
    ):
        load_images(source, CONFIG, SIZE)
    with pytest.raises(ValueError, match=r"photos: .* has no column 'picture', only"):
        load_images(source, DataConfig(train="unused", image_column="picture"), SIZE)


def test_a_mixed_image_is_a_blend_or_has_a_rectangle_of_the_next_one():
    images = torch.arange(6.0)[:, None, None, None].expand(-1, 3, 64, 64)
    draws = torch.tensor(
        [  # mixed, kind, amount, aspect, row, column
            [0.29, 0.4, 0.25, 0.5, 0.5, 0.5],  # a blend
            [0.31, 0.4, 0.25, 0.5, 0.5, 0.5],  # not mixed
            [0.0, 0.6, 0.25, 0.5, 0.5, 0.25],  # a square of a quarter of the area
            [0.0, 0.6, 0.125, 1.0, 0.5, 0.5],  # twice as high as wide
            [0.0, 0.6, 0.125, 0.0, 0.75, 0.5],  # twice as wide as high
            [0.0, 0.6, 0.25, 0.5, 0.0, 0.5],  # cut at the border; the next image is the first one
        ]
    )
    expected = images.clone()
    expected[0] = 0.75 * 0 + 0.25 * 1
    expected[2, :, 16:48, 0:32] = 3
    expected[3, :, 16:48, 24:40] = 4
    expected[4, :, 40:56, 16:48] = 5
    expected[5, :, 0:16, 16:48] = 0
    torch.testing.assert_close(mix_images(images, draws, 0.3), expected)
