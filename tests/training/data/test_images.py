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


def test_a_cell_without_an_image_that_decodes_gives_the_cause(images, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    whole = encoded(images[0])
    for content, path, cause in (
        (whole[: len(whole) // 2], None, "image does not decode"),
        (b"", None, "image does not decode"),
        (None, str(tmp_path / "gone.png"), "image file is missing"),
        (None, str(tmp_path / "pipe.png"), "image is not a file"),
        (None, None, "no image"),
    ):
        assert read_image({"bytes": content, "path": path}) == cause
    assert decode_image("image is a URL", 64) == "image is a URL"


def test_a_decompression_bomb_is_not_decoded(images, monkeypatch):
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 1000)
    assert decode_image(make_cell(images[0]), 64) == "decompression bomb"
