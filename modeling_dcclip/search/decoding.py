"""Decode images within one budget of memory, and those of slow formats in a process that is ended after a time."""

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import BinaryIO

from PIL import Image

from modeling_dcclip.image_dcclip import open_header, reduce_jpeg, to_rgb
from modeling_dcclip.search.background import command_of_main
from modeling_dcclip.search.files import RAW_PHOTOS, UnreadablePhotoError
from modeling_dcclip.search.raw import DATE_TIME, DATE_TIME_ORIGINAL, EXIF_IFD, open_preview

DATE_TIME_DIGITIZED = 0x9004
LIMIT_S = 60  # time limit of a process that decodes one image
MAX_BYTES = 3 * 2**29  # for all images that this process decodes at once
SLOW_BYTES = 2**29  # an image that takes more memory is decoded in a process
SLOW_FORMATS = ("JPEG2000",)
# memory of a decoder with the converted image, per pixel, as measured
BYTES_PER_PIXEL = {"WEBP": 16, "JPEG2000": 20, "AVIF": 11, "HEIF": 9, "GIF": 9}
PLAIN_BYTES = 8  # per pixel of other formats
WIDE_BYTES = 28  # per pixel of gray values of more than 8 bits
COEFFICIENT_BYTES = 4  # per pixel of a progressive JPEG at its full size


class Budget:
    """Memory that threads share: each waits until what it needs is free.

    Args:
        limit: Number of bytes; nobody may take more.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._used = 0
        self._changed = threading.Condition()
        self._mine = threading.local()

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Give back at the end of the block what this thread has taken in it."""
        self._mine.taken = 0
        try:
            yield
        finally:
            with self._changed:
                self._used -= self._mine.__dict__.pop("taken")
                self._changed.notify_all()

    def take(self, amount: int):
        """Wait until so many bytes are free, and take them until the end of the scope. Call it once in a scope."""
        if hasattr(self._mine, "taken"):
            with self._changed:
                self._changed.wait_for(lambda: self._used + amount <= self.limit)
                self._used += amount
                self._mine.taken += amount


MEMORY = Budget(MAX_BYTES)


def decode_photo(
    file: BinaryIO,
    edge: int | None = None,
    extension: str = "",
    in_process: bool = True,
) -> tuple[str | None, Image.Image]:
    """Decode an open image file; of a raw photograph, by its extension, the preview.

    Args:
        file: File to read from its start.
        edge: Length of the shorter side that is enough, in pixels; see `read_photo`.
        extension: Extension of the file in lower case, with its dot.
        in_process: Whether slow formats are decoded in a process.

    Returns:
        Date and time of EXIF, `YYYY-MM-DD HH:MM:SS` or None, and the upright 8-bit RGB image.

    Raises:
        UnreadablePhotoError: The image is damaged, or takes too much memory or time.
    """
    is_raw = extension in RAW_PHOTOS
    file.seek(0)
    try:
        with open_preview(file) if is_raw else open_header(file) as image:
            pixels = image.width * image.height
            if edge is not None:
                reduce_jpeg(image, edge)
            needed = _decoded_bytes(image, pixels)
            if needed > MAX_BYTES:
                raise Image.DecompressionBombError
            MEMORY.take(needed)
            if in_process and (image.format in SLOW_FORMATS or needed > SLOW_BYTES):
                return _decode_in_process(file, edge, extension)
            return date_taken(image), to_rgb(image)
    except UnreadablePhotoError:
        raise
    except Exception as error:  # decoders raise many kinds, such as SyntaxError and struct.error
        is_lasting = getattr(error, "errno", None) is None and not isinstance(error, MemoryError)
        cause = "damaged" if is_lasting else cause_of(error)
        if isinstance(error, Image.DecompressionBombError):
            cause = "too many pixels"
        elif isinstance(error, Image.UnidentifiedImageError):
            cause = "raw photograph without a preview" if is_raw else "not an image, or damaged"
        raise UnreadablePhotoError(cause, is_lasting) from error


def cause_of(error: BaseException) -> str:
    """Short cause of an error of the operating system."""
    return getattr(error, "strerror", None) or type(error).__name__


def _decoded_bytes(image: Image.Image, pixels: int) -> int:
    """Memory that decoding takes; `pixels` is the size of the file, which may be decoded smaller."""
    is_wide = image.mode[0] in "IF"
    per_pixel = WIDE_BYTES if is_wide else BYTES_PER_PIXEL.get(image.format or "", PLAIN_BYTES)
    needed = per_pixel * image.width * image.height
    return needed + COEFFICIENT_BYTES * pixels if "progressive" in image.info else needed


def date_taken(image: Image.Image) -> str | None:
    """Date and time of EXIF at which an image was taken, by the first tag that has one."""
    for tag in (DATE_TIME_ORIGINAL, DATE_TIME_DIGITIZED, DATE_TIME):
        # EXIF data that are damaged, of an image that may still be decoded, or zeros of a camera without a clock
        with suppress(Exception):
            exif = image.getexif()
            text = exif[tag] if tag == DATE_TIME else exif.get_ifd(EXIF_IFD)[tag]
            return str(datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S"))
    return None


def _decode_in_process(
    file: BinaryIO, edge: int | None, extension: str
) -> tuple[str | None, Image.Image]:
    request = json.dumps({"edge": edge, "extension": extension})
    command = [*command_of_main(__name__), request]
    file.seek(0)
    try:
        run = subprocess.run(
            command, input=file.read(), capture_output=True, timeout=LIMIT_S, check=True
        )
    except subprocess.SubprocessError as error:
        raise UnreadablePhotoError("takes too long to decode") from error
    line, _, pixels = run.stdout.partition(b"\n")
    answer = json.loads(line)
    if "cause" in answer:
        raise UnreadablePhotoError(**answer)
    return answer["taken"], Image.frombytes("RGB", answer["size"], pixels)


def main():
    """Decode the image on stdin, and write a line of JSON and the pixels to stdout."""
    content = io.BytesIO(sys.stdin.buffer.read())
    request = json.loads(sys.argv[2])
    try:
        taken, image = decode_photo(content, **request, in_process=False)
    except UnreadablePhotoError as error:
        print(json.dumps({"cause": error.cause, "is_lasting": error.is_lasting}))
    else:
        print(json.dumps({"taken": taken, "size": image.size}), flush=True)
        sys.stdout.buffer.write(image.tobytes())
