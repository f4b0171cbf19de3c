"""One way to open images: upright, 8 bits, opaque, limited in size, and one error for all damage."""

import io
import time

import numpy as np
import pytest
from PIL import Image, ImageOps
from transformers import CLIPImageProcessor

from modeling_dcclip import DCCLIPProcessor, image_dcclip
from modeling_dcclip.image_dcclip import (
    DecompressionBomb,
    ImageError,
    fit_image,
    open_image,
    square_input,
    to_rgb,
)
from modeling_dcclip.runtime_dcclip import ImagePreprocessor, open_rgb
from tests.tiny import encoded
from training.data.images import decode_image
from training.teachers.images import ImagePreparation

SQUASHING = CLIPImageProcessor(
    size={"height": 64, "width": 64}, do_center_crop=False, do_normalize=False
)
CROPPING = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64, do_normalize=False)


def ramp(dtype, largest):
    return (np.linspace(0, 1, 16).reshape(4, 4) * largest).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "largest", "file_format"),
    [
        ("uint16", 65535, "PNG"),
        ("float32", 1, "TIFF"),
        ("float32", 65535, "TIFF"),
        ("int32", 255, "TIFF"),
    ],
)
def test_gray_values_of_every_type_are_scaled_to_eight_bits(dtype, largest, file_format):
    opened = open_image(encoded(Image.fromarray(ramp(dtype, largest)), file_format))
    assert opened.mode == "RGB"
    levels = np.asarray(opened.getchannel("R"))
    np.testing.assert_allclose(levels, ramp("float64", 255), rtol=0, atol=1)


@pytest.fixture
def turned(tmp_path):
    """A file of 16 bits with an orientation, in which decoders used to differ."""
    wide = Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000)
    exif = Image.Exif()
    exif[image_dcclip.ORIENTATION] = 6
    wide.save(tmp_path / "a.png", exif=exif)
    return tmp_path / "a.png"


def test_every_decoder_gives_the_same_pixels(turned, processor):
    """The runtime, the processor and training."""
    expected = open_image(turned)
    assert expected.size == (3, 4)
    opened = Image.open(turned)
    for image in (open_rgb(turned), open_rgb(opened), processor.prepare_images(opened)):
        assert image.tobytes() == expected.tobytes()


@pytest.mark.parametrize("file_format", ["EPS", "TGA"])
def test_formats_that_nobody_means_are_not_opened(file_format):
    with pytest.raises(ImageError, match="cannot identify image file"):
        open_image(encoded(Image.new("RGB", (8, 8)), file_format))


def test_a_limit_of_pixels_includes_its_last_pixel(monkeypatch):
    file = encoded(Image.new("RGB", (100, 100)), "PNG")
    with pytest.raises(DecompressionBomb, match="100 x 100 pixels, more than 9999"):
        open_image(file, max_pixels=9999)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9999)
    with pytest.raises(DecompressionBomb, match="more than 9999"):
        open_image(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**4)
    assert open_image(file).size == (100, 100)
    assert open_image(file, max_pixels=10**4).size == (100, 100)


def by_training(image, squash):
    return decode_image({"bytes": encoded(image), "path": None}, 64, squash).permute(1, 2, 0)


def by_evaluation(image, squash):
    return ImagePreparation(64, lambda pixels: pixels, "", squash).fit(image)


def by_runtime(image, squash):
    config = SQUASHING if squash else CROPPING
    return ImagePreprocessor(config.to_dict())(image).transpose(1, 2, 0) * 255


def by_processor(image, squash):
    processor = SQUASHING if squash else CROPPING
    return processor(image, return_tensors="pt")["pixel_values"][0].permute(1, 2, 0) * 255


@pytest.mark.parametrize("prepare", [by_training, by_evaluation, by_runtime, by_processor])
@pytest.mark.parametrize("size", [(101, 64), (64, 103), (137, 90), (64, 64), (31, 50)])
@pytest.mark.parametrize("squash", [False, True])
def test_every_tool_prepares_an_image_alike(images, prepare, size, squash):
    image = images[0].resize(size)
    fitted = fit_image(image, *square_input(64, squash))
    assert fitted.size == (64, 64)
    difference = np.asarray(fitted, np.float32) - np.asarray(prepare(image, squash), np.float32)
    assert np.abs(difference).max() <= 2  # Pillow and torch round differently


def test_long_images_are_cropped_before_they_are_resized(processor):
    # without the crop the image processor would make 64 x 12,800,000 pixels
    pixels = processor(images=Image.new("L", (200_000, 1)))["pixel_values"][0]
    assert pixels.shape == (3, 64, 64)


@pytest.mark.parametrize("prepare", [by_training, by_runtime])
def test_tall_images_are_lowered_before_they_are_widened(prepare):
    # widened first, it would be 64 x 4,000,000 pixels
    image = Image.new("RGB", (1, 4_000_000), "red")
    image.paste((0, 0, 255), (0, 0, 1, 1_000_000))
    started = time.process_time()
    pixels = prepare(image, True)
    assert time.process_time() - started < 3
    assert (np.asarray(pixels)[:, :, 2] > 128).mean() == 0.25


def test_images_of_a_model_that_squashes_them_are_not_cropped(processor):
    image = Image.new("RGB", (400, 1), "red")
    image.paste((0, 0, 255), (0, 0, 100, 1))
    for turned in (image, image.rotate(90, expand=True)):
        squashed = DCCLIPProcessor(SQUASHING, processor.tokenizer)(images=turned)
        assert squashed["pixel_values"][0].shape == (3, 64, 64)
        assert (squashed["pixel_values"][0][2] > 0.5).float().mean() == 0.25


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_images_are_flattened_onto_white(mode):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    white = Image.new("RGBA", (2, 1), "white")
    expected = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    assert to_rgb(image).tobytes() == expected.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_files_are_turned_upright_once(file_format, orientation):
    """Pillow turns a TIFF file by itself when it decodes it."""
    image = Image.new("RGB", (60, 40), "red")
    image.paste((0, 0, 255), (0, 0, 30, 20))
    exif = Image.Exif()
    exif[image_dcclip.ORIENTATION] = orientation
    content = encoded(image, file_format, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    opened = open_image(content)
    np.testing.assert_allclose(opened, upright, rtol=0, atol=1)
    assert to_rgb(opened) is opened  # as the processor and the runtime do again


def test_a_jpeg_is_decoded_no_smaller_than_the_gap_allows():
    content = encoded(Image.new("RGB", (1000, 750)), "JPEG")
    assert open_image(content, 90, gap=1).size == (125, 94)
    assert open_image(content, 90, gap=2).size == (250, 188)
