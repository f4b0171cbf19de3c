"""Decode images within one budget of memory, and those of slow formats in a process that is ended after a time."""

import ctypes
import io
import json
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from modeling_dcclip.image_dcclip import ORIENTATION, open_header, reduce_jpeg, to_rgb
from modeling_dcclip.search.messages import cause_of
from modeling_dcclip.search.photos.files import RAW_PHOTOS, UnreadablePhotoError

EXIF_IFD = 0x8769
DATE_TIME, DATE_TIME_ORIGINAL, DATE_TIME_DIGITIZED = 0x0132, 0x9003, 0x9004
TURNED = (5, 6, 7, 8)  # orientations of EXIF with a turn by 90 degrees
RAW_TURNS = {3: 3, 5: 8, 6: 6}  # orientation of EXIF by `flip` of LibRaw
LIMIT_S = 60  # time limit of a process that decodes one image
MAX_BYTES = 3 * 2**29  # for all images that this process decodes at once
PAGE_BYTES = 344_000_000  # the page may use as much: 48 megapixels of HEIC, or 86 of JPEG or PNG
SLOW_BYTES = 2**29  # an image that takes more memory is decoded in a process
SLOW_FORMATS = ("JPEG2000",)
# memory of decoders that hold a whole image, per pixel, as measured: with the decoded image, and until it is converted
WHOLE = {"JPEG2000": (20, 20), "AVIF": (10, 11), "HEIF": (7, 9)}
ALPHA = (2, 5)  # more for transparent ones
# starts of files that their decoders read as a whole: WebP; AVIF and HEIC after the length of their first box
WEBP_BYTES = (
    16,
    21,
)  # per pixel, without and with transparency; Pillow takes half of it when it opens a file
HEAD_BYTES = 30
WHOLE_FILES = re.compile(rb"RIFF....WEBP|....ftyp", re.DOTALL)
FILE_COPIES = 2
WIDE = "IF"  # modes of gray values of more than 8 bits
WIDE_BYTES = 28  # per pixel of them
COEFFICIENT_BYTES = 4  # per pixel of a progressive JPEG at its full size
# a process sends its pixels in strips, so that no second copy of the image is made
STRIP_BYTES = 2**22

M_MMAP_THRESHOLD = -3  # a parameter of mallopt(3) in glibc
MAPPED_BYTES = 2**20

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the budget decides

_thread = threading.local()  # `budget` and `taken` of the scope that a thread is in


class Budget:
    """Memory that threads share: each waits until what it needs is free.

    Args:
        limit: Number of bytes; nobody may take more.
        whole: Budget that this one is a part of.
    """

    def __init__(self, limit: int, whole: "Budget | None" = None):
        self.limit = limit
        self._whole = whole
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Give back at the end of the block what this thread has taken in it."""
        _thread.budget, _thread.taken = self, 0
        try:
            yield
        finally:
            del _thread.budget
            self._add(-_thread.taken)

    def take(self, amount: int):
        """Wait until so many bytes are free, and take them until the end of the scope. Call it once in a scope.

        Raises:
            UnreadablePhotoError: It is more than the limit.
        """
        if amount > self.limit:
            raise UnreadablePhotoError("too many pixels")
        if hasattr(_thread, "budget"):
            self._add(amount)
            _thread.taken += amount

    def _add(self, amount: int):
        with self._changed:
            self._changed.wait_for(lambda: amount <= 0 or self._used + amount <= self.limit)
            self._used += amount
            self._changed.notify_all()
        if self._whole is not None:
            self._whole._add(amount)


MEMORY = Budget(MAX_BYTES)
PAGE_MEMORY = Budget(PAGE_BYTES, MEMORY)


def give_memory_back():
    """Have glibc give large blocks back to the system once they are freed; else each thread keeps up to 64 MiB."""
    with suppress(AttributeError, OSError, TypeError):  # other systems have no mallopt
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


def current_budget() -> Budget:
    """The budget of the scope that this thread is in, by default that of the process."""
    return getattr(_thread, "budget", MEMORY)


def decode_photo(
    file: BinaryIO,
    edge: int | None = None,
    extension: str = "",
    in_process: bool = True,
    is_lean: bool = False,
    limit: int | None = None,
) -> tuple[str | None, Image.Image]:
    """Decode an open image file; of a raw photograph, by its extension, the preview.

    An image whose conversion takes too much memory is reduced before, if `edge` is given.

    Args:
        file: File to read from its start.
        edge: Length of the shorter side that is enough, in pixels; see `read_photo`.
        extension: Extension of the file in lower case, with its dot.
        in_process: Whether slow formats are decoded in a process.
        is_lean: Whether an image that is larger than needed is reduced before its conversion.
        limit: Number of bytes that decoding may take. Default: the limit of the budget.

    Returns:
        Date and time of EXIF, `YYYY-MM-DD HH:MM:SS` or None, and the upright 8-bit RGB image.

    Raises:
        UnreadablePhotoError: The image is damaged, or takes too much memory or time.
    """
    budget = current_budget()
    limit = limit or budget.limit
    is_raw = extension in RAW_PHOTOS
    try:
        file.seek(0)
        head = file.read(HEAD_BYTES)
        # a file that its decoder reads as a whole is in memory before the pixels are known
        is_whole = is_raw or WHOLE_FILES.match(head)
        held = FILE_COPIES * file.seek(0, os.SEEK_END) if is_whole else 0
        file.seek(0)
        if held > limit:
            raise UnreadablePhotoError("file too large")
        webp = read_webp_size(head)
        if webp is not None:
            needed = held + WEBP_BYTES[webp[2]] * webp[0] * webp[1]
            if needed > limit:
                raise Image.DecompressionBombError
            budget.take(needed)
        with _open_preview(file) if is_raw else open_header(file) as image:
            pixels = image.width * image.height
            if edge is not None:
                reduce_jpeg(image, edge)
            largest = _largest_factor(image, edge)
            factor = largest if is_lean else 1
            if webp is None:
                needed = held + _decoded_bytes(image, pixels, factor)
                if needed > limit:
                    factor = largest
                    needed = held + _decoded_bytes(image, pixels, factor)
                if needed > limit:
                    raise Image.DecompressionBombError
                budget.take(needed)
            if in_process and (image.format in SLOW_FORMATS or needed > SLOW_BYTES):
                options = {
                    "edge": edge,
                    "extension": extension,
                    "is_lean": factor > 1,
                    "limit": limit,
                }
                return _decode_in_process(file, options)
            taken = date_taken(image)
            return taken, to_rgb(_reduced(image, factor))
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


def _open_preview(file: BinaryIO) -> Image.Image:
    """Open the preview that a camera put into a raw photograph, with its orientation. Needs the extra `raw`.

    Raises:
        PIL.UnidentifiedImageError: The file is damaged, or has no preview.
    """
    import rawpy  # here, because most indexes have no raw photograph

    try:
        with rawpy.imread(file) as raw:
            preview, flip = raw.extract_thumb(), raw.sizes.flip
            has_date = raw.other.timestamp.timestamp() > 0
    except rawpy.LibRawError as error:
        raise Image.UnidentifiedImageError("no preview") from error
    data: Any = preview.data  # the content of a JPEG file, or pixels
    is_file = preview.format == rawpy.ThumbFormat.JPEG
    image = Image.open(io.BytesIO(data), formats=["JPEG"]) if is_file else Image.fromarray(data)
    with suppress(Exception):  # damaged EXIF data, of a preview that may be sound
        exif = image.getexif()
        exif.setdefault(ORIENTATION, RAW_TURNS.get(flip, 1))
        if not has_date:  # LibRaw writes 1970
            exif.pop(DATE_TIME, None)
    return image


def read_webp_size(head: bytes) -> tuple[int, int, bool] | None:
    """Width, height and transparency of a WebP file by its first 30 bytes; None for other files."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    kind = head[12:16]
    number = int.from_bytes(head[21:25], "little")
    if kind == b"VP8L":
        return 1 + (number & 0x3FFF), 1 + (number >> 14 & 0x3FFF), bool(number >> 28 & 1)
    if kind == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
        return 1 + width, 1 + height, bool(head[20] & 0x10)
    width, height = (int.from_bytes(head[at : at + 2], "little") for at in (26, 28))
    return width & 0x3FFF, height & 0x3FFF, False


def read_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height of an upright image, from the header of its file.

    Raises:
        Exception: The file is damaged; decoders raise many kinds.
    """
    file.seek(0)
    if webp := read_webp_size(file.read(HEAD_BYTES)):
        return webp[:2]
    file.seek(0)
    with open_header(file) as image:
        # the size of a TIFF is upright, whatever its EXIF says; Pillow decodes a PNG to find EXIF at its end
        has_turn = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        is_turned = has_turn and image.getexif().get(ORIENTATION) in TURNED
        return image.size[::-1] if is_turned else image.size


def _decoded_bytes(image: Image.Image, pixels: int, factor: int) -> int:
    """Memory that decoding and conversion take; `pixels` is the size of the file, which may be decoded smaller.

    With a factor above 1, the image is reduced before it is converted.
    """
    is_lean = factor > 1
    is_plain = image.mode in ("RGB", "L") and "transparency" not in image.info
    if image.mode[0] in WIDE:
        per_pixel = WIDE_BYTES
    elif image.format in WHOLE:
        per_pixel = WHOLE[image.format][not is_lean] + (0 if is_plain else ALPHA[not is_lean])
    else:
        per_pixel = 1 if image.mode in ("1", "L", "P") else 4
        if not is_lean:
            per_pixel += 4 if is_plain else 12
        elif not is_plain:
            per_pixel += 8 if image.mode in ("1", "P") else 4
    needed = per_pixel * image.width * image.height
    return needed + COEFFICIENT_BYTES * pixels if "progressive" in image.info else needed


def _largest_factor(image: Image.Image, edge: int | None) -> int:
    """Whole number by which the sides of an image can be divided, so that the shorter one has `edge` pixels."""
    if edge is None or image.mode[0] in WIDE:
        return 1
    return max(1, min(image.size) // edge)


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    if factor == 1:
        return image
    image.load()
    if image.mode in ("1", "P"):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    reduced = image.reduce(factor)
    reduced.info = image.info
    return reduced


def date_taken(image: Image.Image) -> str | None:
    """Date and time of EXIF at which an image was taken, by the first tag that has one."""
    for tag in (DATE_TIME_ORIGINAL, DATE_TIME_DIGITIZED, DATE_TIME):
        # EXIF data that are damaged, of an image that may still be decoded, or zeros of a camera without a clock
        with suppress(Exception):
            exif = image.getexif()
            text = exif[tag] if tag == DATE_TIME else exif.get_ifd(EXIF_IFD)[tag]
            return str(datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S"))
    return None


def _decode_in_process(file: BinaryIO, options: dict[str, Any]) -> tuple[str | None, Image.Image]:
    """Decode in a process that is ended after a time, and read the pixels in strips."""
    file.seek(0)
    is_file = not isinstance(file, io.BytesIO)
    if is_file:
        os.lseek(file.fileno(), 0, os.SEEK_SET)  # which a buffered file reads ahead
    # not -m, which would import what lies in the current folder
    code = f"import sys; sys.path.insert(0, sys.argv[1]); from {__name__} import main; main()"
    package = Path(__file__).parents[3]
    command = [sys.executable, "-P", "-c", code, str(package), json.dumps(options)]
    with subprocess.Popen(
        command, stdin=file if is_file else subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        timer = threading.Timer(LIMIT_S, process.kill)
        timer.start()
        try:
            if process.stdin is not None:
                with suppress(BrokenPipeError):  # it has ended
                    process.stdin.write(file.read())
                    process.stdin.close()
            assert process.stdout is not None
            answer = json.loads(process.stdout.readline())
            if "cause" in answer:
                raise UnreadablePhotoError(**answer)
            image = Image.new("RGB", answer["size"])
            for top, bottom in _strips(*image.size):
                content = process.stdout.read(3 * image.width * (bottom - top))
                size = (image.width, bottom - top)
                image.paste(Image.frombytes("RGB", size, content), (0, top))
        except UnreadablePhotoError:
            raise
        except ValueError as error:  # an answer that is cut short
            raise UnreadablePhotoError("takes too long to decode") from error
        finally:
            timer.cancel()
            process.kill()
    return answer["taken"], image


def _strips(width: int, height: int) -> Iterator[tuple[int, int]]:
    """First row and end of each strip of an image."""
    rows = max(1, STRIP_BYTES // (3 * width))
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def main():
    """Decode the image on stdin, and write a line of JSON and the pixels to stdout."""
    stream = sys.stdin.buffer
    content = stream if stream.seekable() else io.BytesIO(stream.read())
    try:
        taken, image = decode_photo(content, **json.loads(sys.argv[2]), in_process=False)
    except UnreadablePhotoError as error:
        print(json.dumps({"cause": error.cause, "is_lasting": error.is_lasting}))
    else:
        print(json.dumps({"taken": taken, "size": image.size}), flush=True)
        for top, bottom in _strips(*image.size):
            strip = image.crop((0, top, image.width, bottom))
            sys.stdout.buffer.write(strip.tobytes())
