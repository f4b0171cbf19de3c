from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, EfficientNetImageProcessor

from training.teachers.images import (
    BATCHES_AHEAD,
    ImagePreparation,
    prepared_batches,
)


def shrink(image):
    return torch.from_numpy(np.array(image.resize((8, 8))))


def test_batches_are_in_order_and_few_are_prepared_ahead(images):
    prepared = []

    def count(image):
        prepared.append(image)
        return shrink(image)

    used = []
    for batch in prepared_batches(images[:30], 4, count):
        used.extend(batch)
        assert len(prepared) <= len(used) + BATCHES_AHEAD * 4
    expected = torch.stack([shrink(image.convert("RGB")) for image in images[:30]])
    assert torch.equal(torch.stack(used), expected.permute(0, 3, 1, 2))


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "cat.png").write_bytes(b"no image")
    cells = [{"path": str(tmp_path / "cat.png"), "bytes": None}]
    rows = Dataset.from_dict({"image": cells}, Features({"image": ImageFeature(decode=False)}))
    with pytest.raises(ValueError, match=r"image: row 0, file '.*cat\.png': image does not decode"):
        list(prepared_batches(rows["image"], 8, shrink))


def test_a_processor_whose_statistics_do_not_suffice_normalizes_itself():
    processor = EfficientNetImageProcessor(size=8)
    prepared = ImagePreparation.of(CLIPConfig(), processor, "model")
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    expected = processor(list(images), do_resize=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(prepared.normalize(images), expected)
    assert prepared.describe()["stated_by"] == "the model's own EfficientNetImageProcessor"


SQUASHING = CLIPImageProcessor(size={"height": 8, "width": 8}, do_center_crop=False)
CROPPING = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=8)


@pytest.mark.parametrize(("processor", "squashes"), [(SQUASHING, True), (CROPPING, False)])
def test_images_are_squashed_by_default_if_the_model_squashes_them(processor, squashes):
    prepared = ImagePreparation.of(CLIPConfig(), processor, "model")
    image = Image.linear_gradient("L").convert("RGB").crop((0, 0, 60, 256))
    assert prepared.squashes == squashes
    other = replace(prepared, squashes=not squashes)
    assert not torch.equal(prepared.fit(image), other.fit(image))
