"""One budget of memory for all decoders, and a limit of time for slow ones."""

import io
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from modeling_dcclip import image_dcclip
from modeling_dcclip.search import decoding
from modeling_dcclip.search.decoding import Budget, decode_photo
from modeling_dcclip.search.files import UnreadablePhotoError
from tests.tiny import encoded

SIZE = (160, 120)
PIXELS = SIZE[0] * SIZE[1]


def file_of(file_format, **options):
    return io.BytesIO(encoded(Image.effect_noise(SIZE, 50).convert("RGB"), file_format, **options))


def assert_refused(file, **options):
    with pytest.raises(UnreadablePhotoError, match="too many pixels") as raised:
        decode_photo(file, **options)
    assert raised.value.is_lasting


@pytest.mark.parametrize(
    ("file_format", "per_pixel"), [("PNG", 8), ("WEBP", 16), ("JPEG2000", 20), ("GIF", 9)]
)
def test_the_memory_of_a_decoder_depends_on_its_format(file_format, per_pixel, monkeypatch):
    needed = per_pixel * PIXELS
    monkeypatch.setattr(decoding, "MAX_BYTES", needed)
    assert decode_photo(file_of(file_format))[1].size == SIZE
    monkeypatch.setattr(decoding, "MAX_BYTES", needed - 1)
    assert_refused(file_of(file_format))


def test_a_jpeg_that_is_decoded_smaller_takes_less_memory(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_BYTES", 8 * PIXELS // 16)
    assert decode_photo(file_of("JPEG"), 24)[1].size == (40, 30)
    assert_refused(file_of("JPEG"))


def test_a_progressive_jpeg_is_in_memory_as_a_whole(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_BYTES", 4 * PIXELS)
    assert_refused(file_of("JPEG", progressive=True), edge=24)


def test_a_jpeg_of_very_many_scans_is_refused(monkeypatch):
    monkeypatch.setattr(image_dcclip, "MAX_SCANNED_PIXELS", 5 * PIXELS)
    assert_refused(file_of("JPEG", progressive=True))
    assert decode_photo(file_of("JPEG"))[1].size == SIZE


def test_a_thread_waits_for_the_memory_of_another():
    budget = Budget(100)
    order = []

    def wait():
        with budget.scope():
            budget.take(50)
            order.append("second")

    thread = Thread(target=wait)
    with budget.scope():
        budget.take(60)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_process_decodes_to_the_same_pixels_and_date():
    exif = Image.Exif()
    exif[0x0132] = "2021:05:09 10:00:00"
    file = file_of("PNG", exif=exif)
    taken, image = decoding._decode_in_process(file, None, ".png")
    expected = decode_photo(file, in_process=False)[1]
    assert taken == "2021-05-09 10:00:00"
    assert np.array_equal(np.asarray(image), expected)


@pytest.mark.parametrize(
    ("error", "is_lasting", "cause"),
    [
        (OSError(5, "Input/output error"), False, "Input/output error"),
        (MemoryError(), False, "MemoryError"),
        (SyntaxError("not a PNG file"), True, "damaged"),
    ],
)
def test_damage_lasts_but_a_failure_of_the_machine_does_not(monkeypatch, error, is_lasting, cause):
    def fail(image):
        raise error

    monkeypatch.setattr(decoding, "to_rgb", fail)
    with pytest.raises(UnreadablePhotoError, match=cause) as raised:
        decode_photo(file_of("PNG"))
    assert raised.value.is_lasting is is_lasting


def test_a_decoder_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.setattr(decoding, "LIMIT_S", 0)
    with pytest.raises(UnreadablePhotoError, match="takes too long to decode") as raised:
        decode_photo(file_of("JPEG2000"))
    assert raised.value.is_lasting
    monkeypatch.undo()
    assert decode_photo(file_of("JPEG2000"))[1].size == SIZE
