"""One budget of memory for all decoders, and a limit of time for slow ones."""

import io
import os
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from modeling_dcclip import image_dcclip
from modeling_dcclip.search.photos import decoding
from modeling_dcclip.search.photos.decoding import MEMORY, Budget, decode_photo
from modeling_dcclip.search.photos.files import UnreadablePhotoError
from tests.tiny import encoded

SIZE = (160, 120)
PIXELS = SIZE[0] * SIZE[1]


def file_of(file_format, mode="RGB", **options):
    return io.BytesIO(encoded(Image.effect_noise(SIZE, 50).convert(mode), file_format, **options))


def assert_refused(file, **options):
    with pytest.raises(UnreadablePhotoError, match="too many pixels") as raised:
        decode_photo(file, **options)
    assert raised.value.is_lasting


@pytest.mark.parametrize(
    ("file_format", "mode", "per_pixel"),
    [
        ("PNG", "RGB", 8),
        ("PNG", "L", 5),
        ("PNG", "P", 13),
        ("PNG", "LA", 16),
        ("PNG", "RGBA", 16),
        ("WEBP", "RGB", 16),
        ("JPEG2000", "RGB", 20),
        ("GIF", "L", 5),
    ],
)
def test_the_memory_of_a_decoder_depends_on_its_format_and_mode(
    file_format, mode, per_pixel, monkeypatch
):
    file = file_of(file_format, mode)
    held = 2 * len(file.getvalue()) if file_format == "WEBP" else 0
    monkeypatch.setattr(MEMORY, "limit", per_pixel * PIXELS + held)
    assert decode_photo(file)[1].size == SIZE
    monkeypatch.setattr(MEMORY, "limit", per_pixel * PIXELS + held - 1)
    assert_refused(file)


@pytest.mark.parametrize(("mode", "per_pixel"), [("RGB", 4), ("L", 1), ("P", 9), ("RGBA", 8)])
def test_an_image_that_is_too_large_to_convert_is_reduced_before(mode, per_pixel, monkeypatch):
    monkeypatch.setattr(MEMORY, "limit", per_pixel * PIXELS)
    assert decode_photo(file_of("PNG", mode), 20)[1].size == (27, 20)
    assert decode_photo(file_of("PNG", mode), 20, is_lean=True)[1].size == (27, 20)
    monkeypatch.setattr(MEMORY, "limit", per_pixel * PIXELS - 1)
    assert_refused(file_of("PNG", mode), edge=20)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_size_of_a_webp_is_read_from_its_start(mode, options):
    image = Image.effect_noise(SIZE, 50).convert(mode)
    if mode == "RGBA":
        image.putalpha(9)
    head = encoded(image, "WEBP", **options)[:30]
    assert decoding.read_webp_size(head) == (*SIZE, mode == "RGBA")


def test_a_file_that_its_decoder_reads_as_a_whole_has_a_limit(tmp_path):
    path = tmp_path / "sparse.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic")
    os.truncate(path, MEMORY.limit)
    with path.open("rb") as file, pytest.raises(UnreadablePhotoError, match="file too large"):
        decode_photo(file)


def test_the_page_takes_a_part_of_the_memory_of_all():
    whole = Budget(100)
    part = Budget(60, whole)
    with part.scope():
        assert decoding.current_budget() is part
        part.take(50)
        assert whole._used == 50
        with pytest.raises(UnreadablePhotoError, match="too many pixels"):
            part.take(61)
    assert decoding.current_budget() is MEMORY
    assert whole._used == 0


def test_a_jpeg_that_is_decoded_smaller_takes_less_memory(monkeypatch):
    monkeypatch.setattr(MEMORY, "limit", 8 * PIXELS // 16)
    assert decode_photo(file_of("JPEG"), 24)[1].size == (40, 30)
    assert_refused(file_of("JPEG"))


def test_a_progressive_jpeg_is_in_memory_as_a_whole(monkeypatch):
    monkeypatch.setattr(MEMORY, "limit", 4 * PIXELS)
    assert_refused(file_of("JPEG", progressive=True), edge=24)


def test_a_jpeg_of_very_many_scans_is_refused(monkeypatch):
    monkeypatch.setattr(image_dcclip, "MAX_SCANNED_PIXELS", 5 * PIXELS)
    assert_refused(file_of("JPEG", progressive=True))
    assert decode_photo(file_of("JPEG"))[1].size == SIZE


def test_a_very_long_side_is_refused(monkeypatch):
    monkeypatch.setattr(image_dcclip, "MAX_SIDE", max(SIZE))
    assert decode_photo(file_of("PNG"))[1].size == SIZE
    monkeypatch.setattr(image_dcclip, "MAX_SIDE", max(SIZE) - 1)
    assert_refused(file_of("PNG"))


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


@pytest.mark.parametrize("is_file", [True, False])
def test_a_process_decodes_to_the_same_pixels_and_date(is_file, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "STRIP_BYTES", 3 * SIZE[0] * 50)
    exif = Image.Exif()
    exif[0x0132] = "2021:05:09 10:00:00"
    file = file_of("PNG", exif=exif)
    expected = decode_photo(file, in_process=False)[1]
    if is_file:
        (tmp_path / "a.png").write_bytes(file.getvalue())
        file = (tmp_path / "a.png").open("rb")
    with file:
        taken, image = decoding._decode_in_process(file, {"extension": ".png"})
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
