import socket
import time
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from transformers import CLIPImageProcessor

from tests.training.data.rows import make_cell
from training.data import decode_image, decode_images, open_image
from training.data.images import CellRules


def test_transparent_images_are_flattened_onto_white():
    image = PILImage.new("RGBA", (64, 64), (200, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 32, 64))
    decoded = decode_image(make_cell(image), 64)
    assert decoded[:, 5, 5].tolist() == [200, 0, 0] and decoded[:, 5, 60].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["P", "LA", "CMYK", "I;16"])
def test_every_colour_mode_becomes_rgb(images, mode):
    image = images[0].convert("L").convert("I").convert("I;16") if mode == "I;16" else images[0].convert(mode)
    decoded = decode_image(make_cell(image, "TIFF"), 64)
    assert isinstance(decoded, torch.Tensor) and decoded.shape == (3, 64, 64) and decoded.dtype == torch.uint8


@pytest.mark.parametrize("size", [(128, 64), (64, 128), (300, 100)])
def test_images_that_are_not_square_are_cropped_to_the_center(size):
    width, height = size
    image = PILImage.new("RGB", size, "red")
    edge = min(size)
    image.paste((0, 0, 255), ((width - edge) // 2, (height - edge) // 2, (width + edge) // 2, (height + edge) // 2))
    decoded = decode_image(make_cell(image), 64).float()
    assert decoded.shape == (3, 64, 64)
    assert (decoded[2, 4:-4, 4:-4] > 250).all() and (decoded[0, 4:-4, 4:-4] < 5).all()


@pytest.mark.parametrize("size", [(150, 211), (640, 480), (1024, 683)])
def test_decoding_equals_the_image_processor(images, size):
    image = images[0].convert("RGB").resize(size)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, do_rescale=False, do_normalize=False
    )
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(decode_image(make_cell(image), 64), expected.to(torch.uint8))


@pytest.mark.parametrize("size", [(150, 211), (64, 64), (32, 20), (3000, 40)])
def test_squashed_images_equal_those_of_an_image_processor_of_a_fixed_size(images, size):
    image = images[0].convert("RGB").resize(size)
    square = {"height": 64, "width": 64}
    processor = CLIPImageProcessor(size=square, do_center_crop=False, do_rescale=False, do_normalize=False)
    expected = processor(image, return_tensors="pt")["pixel_values"][0].to(torch.uint8)
    assert torch.equal(decode_image(make_cell(image), 64, squash=True), expected)
    assert torch.equal(decode_images([make_cell(image)] * 2, 64, squash=True)[1], expected)


def test_exif_orientation_is_applied():
    upright = PILImage.new("RGB", (64, 64), "red")
    upright.paste((0, 0, 255), (0, 0, 64, 32))  # the upper half is blue
    exif = PILImage.Exif()
    exif[0x0112] = 6  # rotate clockwise to display
    buffer = BytesIO()
    upright.transpose(PILImage.Transpose.ROTATE_90).save(buffer, "JPEG", exif=exif)
    decoded = decode_image({"bytes": buffer.getvalue(), "path": None}, 64)
    assert decoded[2, :28].min() > 200 and decoded[0, 36:].min() > 200


def test_large_jpeg_is_decoded_at_a_smaller_scale(images):
    large = images[0].convert("RGB").resize((1024, 768), PILImage.Resampling.BICUBIC)
    jpeg = make_cell(large, "JPEG")
    assert open_image(jpeg, 64).size == (256, 192) and open_image(jpeg).size == (1024, 768)
    small = PILImage.open(BytesIO(jpeg["bytes"])).resize((85, 64), PILImage.Resampling.BICUBIC).crop((10, 0, 74, 64))
    difference = decode_image(jpeg, 64).permute(1, 2, 0).numpy().astype(int) - np.array(small)
    assert np.abs(difference).mean() < 1 and np.abs(difference).max() < 24


def test_damaged_and_missing_images_return_the_cause(images, tmp_path):
    whole = make_cell(images[0])["bytes"]
    assert decode_image({"bytes": whole[: len(whole) // 2], "path": None}, 64) == "image does not decode"
    assert decode_image({"bytes": b"no image at all", "path": None}, 64) == "image does not decode"
    assert decode_image({"bytes": b"", "path": None}, 64) == "image does not decode"
    assert decode_image({"bytes": None, "path": str(tmp_path / "gone.png")}, 64) == "image does not decode"
    assert decode_image(None, 64) == "no image"
    assert decode_image({"bytes": None, "path": None}, 64) == "no image"


def test_cells_that_name_urls_or_foreign_files_are_skipped_unless_allowed(images, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    images[0].save(data / "a.png")
    images[0].save(tmp_path / "outside.png")
    inside, outside, url = str(data / "a.png"), str(data / "../outside.png"), "http://127.0.0.1:1/a.png"
    rules = CellRules(roots=(data.resolve(),))
    assert torch.is_tensor(decode_image(rules(inside), 64))
    assert decode_image(rules(outside), 64) == "image is a path outside the data, and allow_paths is off"
    assert decode_image(rules(url), 64) == "image is a URL, and allow_urls is off"
    assert torch.is_tensor(decode_image(CellRules(allow_paths=True)(outside), 64))
    assert decode_image(CellRules(allow_urls=True)(url), 64) == "image does not decode"  # nothing answers there


def test_a_url_that_never_answers_is_skipped_in_time(monkeypatch):
    monkeypatch.setattr("training.data.images.URL_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and says nothing
        cell = {"bytes": None, "path": f"http://127.0.0.1:{server.getsockname()[1]}/a.png"}
        began = time.monotonic()
        assert decode_image(cell, 64) == "image does not decode"
        assert time.monotonic() - began < 15
