import os

from PIL import Image as PILImage

from tests.tiny import encoded
from tests.training.data.rows import make_cell
from training.data import decode_image, open_image
from training.data.images import read_image


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
