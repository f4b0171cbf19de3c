"""Find the JPEG preview that a camera put into a raw photograph, without a library for raw files.

Cameras store previews for their own display, and the largest one in the file is taken. Sensor data that are compressed
as lossless JPEG are skipped, because they are not an RGB image of 8 bits.
"""

import io
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import BinaryIO

from PIL import Image

from modeling_dcclip.image_dcclip import ORIENTATION

EXIF_IFD = 0x8769
DATE_TIME = 0x0132
DATE_TIME_ORIGINAL = 0x9003
JPEG_START = b"\xff\xd8\xff"
CHUNK_BYTES = 2**20  # that are searched at once; a file starts with its EXIF data in so many
JPEG_HEADER_BYTES = 2**18
PREVIEW_BYTES = 2**26  # largest preview
MAX_STARTS = 100  # JPEG starts that are tried; sensor data have some by chance
CR3_EXIF = b"CMT1"  # box of Canon's newest files


def open_preview(file: BinaryIO) -> Image.Image:
    """Open the largest preview of a raw photograph, with the orientation and the date of the photograph.

    Raises:
        PIL.UnidentifiedImageError: The file has no preview.
    """
    found: list[tuple[int, int]] = []  # pixels and start
    for start in [*islice(_jpeg_starts(file), MAX_STARTS)]:
        with suppress(Exception):
            width, height = _open_jpeg(_read_at(file, start, JPEG_HEADER_BYTES)).size
            found.append((width * height, start))
    if not found:
        raise Image.UnidentifiedImageError("no preview")
    image = _open_jpeg(_read_at(file, max(found)[1], PREVIEW_BYTES))
    with suppress(Exception):  # a damaged header, of a preview that may be sound
        exif = image.getexif()
        header = _header(_read_at(file, 0, CHUNK_BYTES))
        taken = header.get_ifd(EXIF_IFD).get(DATE_TIME_ORIGINAL, header.get(DATE_TIME))
        for tag, value in ((ORIENTATION, header.get(ORIENTATION)), (DATE_TIME, taken)):
            if value is not None:
                exif.setdefault(tag, value)
    return image


def _jpeg_starts(file: BinaryIO) -> Iterator[int]:
    """Positions of what may be JPEG files in a file."""
    tail = b""
    end = 0
    while chunk := file.read(CHUNK_BYTES):
        block = tail + chunk
        end += len(chunk)
        for match in re.finditer(re.escape(JPEG_START), block):
            yield end - len(block) + match.start()
        tail = block[1 - len(JPEG_START) :]


def _read_at(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


def _open_jpeg(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=["JPEG"])
    if image.mode != "RGB":
        raise Image.UnidentifiedImageError("not a preview")
    return image


def _header(content: bytes) -> Image.Exif:
    """EXIF data of the raw photograph itself: most are TIFF files, some with a different number in them."""
    start = content.find(CR3_EXIF) + len(CR3_EXIF) if content[4:8] == b"ftyp" else 0
    order = content[start : start + 2]
    exif = Image.Exif()
    exif.load(order + (b"*\0" if order == b"II" else b"\0*") + content[start + 4 :])
    return exif
