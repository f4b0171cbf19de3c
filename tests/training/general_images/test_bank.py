"""Images that stay in memory for a whole run."""

import pytest
import torch
from datasets import Dataset, Features, Image

from training.config import DataConfig
from training.data.images import decode_image
from training.general_images import bank
from training.general_images.bank import load_images, vary_images

CONFIG = DataConfig(train="unused")
SIZE = 32


def write(path, images):
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
    monkeypatch.setattr(bank, "MAX_IMAGES", 3)
    torch.testing.assert_close(
        load_images(str(tmp_path / "a.parquet"), CONFIG, SIZE), everything[::2]
    )


def test_images_that_cannot_be_used_are_named(tmp_path, images):
    source = write(tmp_path / "a.parquet", [*images[:2], {"bytes": b"no image", "path": None}])
    with pytest.raises(
        ValueError, match=r"photos: row 2 of .*: image does not decode. Fix or remove the row"
    ):
        load_images(source, CONFIG, SIZE)


def test_half_of_the_images_are_blended_with_the_next_one(monkeypatch):
    monkeypatch.setattr(bank.Augment, "__call__", lambda self, images, views: images.float())
    monkeypatch.setattr(bank, "ROWS_AT_ONCE", 150)
    images = torch.tensor([0, 200], dtype=torch.uint8).repeat(150)[:, None, None, None]
    images = images.expand(-1, 3, 4, 4)
    varied = vary_images(images, seed=1)
    assert varied.shape == images.shape and varied.dtype == torch.uint8
    differences = (varied.int() - images.int()).abs().flatten(1)
    assert (differences == differences[:, :1]).all()  # one weight for each image
    blended = differences[:, 0][differences[:, 0] > 0].float()
    assert 120 < len(blended) < 180
    assert blended.max() > 180 and 85 < blended.mean() < 115
    assert torch.equal(varied, vary_images(images, seed=1))
    assert not torch.equal(varied, vary_images(images, seed=2))
