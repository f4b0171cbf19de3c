import os

import pytest
import torch
from PIL import Image as PILImage
from transformers import CLIPImageProcessor

from tests.tiny import encoded
from tests.training.data.rows import make_cell
from training.data import decode_image, decode_images, open_image
from training.data.images import read_image


@pytest.mark.parametrize("size", [(150, 211), (640, 480), (1024, 683)])
def test_decoding_equals_the_image_processor(images, size):
    image = images[0].resize(size)
    processor = CLIPImageProcessor(size=64, crop_size=64, do_rescale=False, do_normalize=False)
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(decode_images([make_cell(image)] * 2, 64)[1], expected.to(torch.uint8))


@pytest.mark.parametrize("size", [(150, 211), (64, 64), (32, 20), (3000, 40)])
def test_squashed_images_equal_those_of_an_image_processor_of_a_fixed_size(images, size):
    image = images[0].resize(size)
    only_resize = {"do_center_crop": False, "do_rescale": False, "do_normalize": False}
    processor = CLIPImageProcessor(size={"height": 64, "width": 64}, **only_resize)
    expected = processor(image, return_tensors="pt")["pixel_values"][0].to(torch.uint8)
    assert torch.equal(decode_image(make_cell(image), 64, squash=True), expected)


def test_large_jpeg_is_decoded_at_a_smaller_scale(images):
    large = images[0].resize((1024, 768), PILImage.Resampling.BICUBIC)
    jpeg = make_cell(large, "JPEG")
    assert open_image(jpeg, 64).size == (256, 192)
    assert open_image(jpeg).size == (1024, 768)
    difference = decode_image(jpeg, 64).int() - decode_image(make_cell(large), 64).int()
    assert difference.abs().double().mean() < 1


def test_a_damaged_image_does_not_decode(images):
    whole = encoded(images[0])
    for damaged in (whole[: len(whole) // 2], b"no image at all", b""):
        assert read_image({"bytes": damaged, "path": None}) == "image does not decode"


def test_a_path_that_leads_to_no_file_gives_the_cause(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    causes = {"gone.png": "image file is missing", "pipe.png": "image is not a file"}
    for name, cause in causes.items():
        assert read_image({"bytes": None, "path": str(tmp_path / name)}) == cause


def test_a_cell_without_an_image_gives_the_cause():
    assert read_image(None) == "no image"
    assert read_image({"bytes": None, "path": None}) == "no image"
    assert decode_image("image is a URL", 64) == "image is a URL"


def test_a_decompression_bomb_is_not_decoded(images, monkeypatch):
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 1000)
    assert decode_image(make_cell(images[0]), 64) == "decompression bomb"
