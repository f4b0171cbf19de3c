"""Find the JPEG preview that a camera put into a raw photograph, without a library for raw files.

Cameras store previews for their own display, and the largest one in the file is taken. Sensor data that are compressed
as lossless JPEG are skipped, because they are not an RGB image of 8 bits.
"""

import io
from contextlib import suppress
from typing import BinaryIO

from PIL import Image

from modeling_dcclip.image_dcclip import ORIENTATION

EXIF_IFD, DATE_TIME, DATE_TIME_ORIGINAL = 0x8769, 0x0132, 0x9003
HEADER_BYTES = 2**20  # at the start of a file, with its EXIF data
JPEG_HEADER_BYTES = 2**18
JPEG_START = b"\xff\xd8\xff"
MAX_STARTS = 100  # of a JPEG; sensor data have some by chance
CR3_EXIF = b"CMT1"  # box of Canon's newest files


def open_preview(file: BinaryIO) -> Image.Image:
    """Open the largest preview of a raw photograph, with the orientation and the date of the photograph.

    Raises:
        PIL.UnidentifiedImageError: The file has no preview.
    """
    content = file.read()
    found: list[tuple[int, int]] = []  # pixels and start
    start = content.find(JPEG_START)
    for _ in range(MAX_STARTS):
        if start < 0:
            break
        with suppress(Exception):
            width, height = _open_jpeg(content[start : start + JPEG_HEADER_BYTES]).size
            found.append((width * height, start))
        start = content.find(JPEG_START, start + 1)
    if not found:
        raise Image.UnidentifiedImageError("no preview")
    image = _open_jpeg(content[max(found)[1] :])
    with suppress(Exception):  # a damaged header, of a preview that may be sound
        exif, header = image.getexif(), _header(content[:HEADER_BYTES])
        taken = header.get_ifd(EXIF_IFD).get(DATE_TIME_ORIGINAL, header.get(DATE_TIME))
        for tag, value in ((ORIENTATION, header.get(ORIENTATION)), (DATE_TIME, taken)):
            if value is not None:
                exif.setdefault(tag, value)
    return image


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
