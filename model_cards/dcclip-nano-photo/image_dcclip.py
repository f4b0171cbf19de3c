"""Open images in one way everywhere: training, processor, evaluation, endpoint, runtime and Space.

An opened image is upright (EXIF orientation), 8-bit RGB, and opaque: transparent images are flattened onto white.
"""

import errno
import io
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

# formats that are opened; some others that Pillow knows start a program (EPS) or crash on damaged files
FORMATS = (
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "HEIF",
    "ICO",
    "JPEG",
    "JPEG2000",
    "PNG",
    "PPM",
    "TIFF",
    "WEBP",
)
# longer images are cropped to it before they are resized, to save time and memory
MAX_ASPECT_RATIO = 32
# a JPEG is decoded at 1/2, 1/4 or 1/8 if twice the target size is left, as in Pillow's thumbnail
REDUCING_GAP = 2
# each scan of a progressive JPEG decodes the whole image again
SCAN_START, MAX_SCANNED_PIXELS = b"\xff\xda", 2_000_000_000
MAX_SIDE = 2**24  # pixels; Pillow counts the bits of a row in 31 bits
ORIENTATION = 0x0112  # EXIF tag with the orientation of the camera
# makes an image of each orientation upright, as Pillow's exif_transpose does, which fails on damaged EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# in a folder of images
SUFFIXES = frozenset(
    [
        ".avif",
        ".bmp",
        ".gif",
        ".heic",
        ".heif",
        ".hif",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".mpo",
        ".pgm",
        ".png",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
SYSTEM_FOLDERS = frozenset(
    {"@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
)
EIGHT_BITS, SIXTEEN_BITS = 255, 65535  # largest values of a pixel


class ImageError(ValueError):
    """The image does not decode; the message says why."""


class DecompressionBomb(ImageError):
    """The image has more pixels than the limit."""


def open_image(
    source: bytes | str | Path | BinaryIO,
    size: int | None = None,
    max_pixels: int | None = None,
    gap: int = REDUCING_GAP,
) -> Image.Image:
    """Open an image file as upright 8-bit RGB.

    Args:
        source: Content of the file, its path, or an open file.
        size: Short side after the caller's resize, in pixels, so that a large JPEG can be decoded smaller. Default:
            full size.
        max_pixels: Largest number of pixels of the file, checked before it is decoded. Default: twice
            `PIL.Image.MAX_IMAGE_PIXELS` for the file, and that limit for what is decoded of it.
        gap: Smallest multiple of `size` that the short side of a JPEG keeps, at least 1.

    Raises:
        DecompressionBomb: The image has too many pixels.
        ImageError: The format is not supported, or the file is damaged.
        OSError: The file does not exist or cannot be read, or it is a pipe or a device.
    """
    if isinstance(source, (str, Path)):
        with open_regular(source) as file:
            source = file.read()
    try:
        with open_header(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            _check_pixels(image, max_pixels)
            if size is not None:
                reduce_jpeg(image, gap * size)
            if max_pixels is None:  # Pillow only warns, up to twice its limit
                _check_pixels(image, Image.MAX_IMAGE_PIXELS)
            return to_rgb(image)
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecompressionBomb(str(error)) from error
    except Exception as error:  # on damaged files, Pillow's plugins raise nearly every type
        cause = f"{type(error).__name__}: {error}"
        if isinstance(error, UnidentifiedImageError):  # its message names an object of Python
            cause = "cannot identify image file"
            if "HEIF" not in formats():
                cause += "; HEIC needs a plug-in: pip install pillow-heif"
        raise ImageError(cause) from error


def open_regular(path: str | bytes | Path) -> io.BufferedReader:
    """Open a regular file to read it.

    Raises:
        OSError: The file does not exist or cannot be read, or it is a pipe or a device, whose end may never come.
    """
    # a pipe that is opened without O_NONBLOCK waits for a writer
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return os.fdopen(descriptor, "rb")


def open_header(file: BinaryIO) -> Image.Image:
    """Open an image file of a supported format without decoding it.

    Raises:
        PIL.Image.DecompressionBombError: It has more than twice `PIL.Image.MAX_IMAGE_PIXELS`, 179 million pixels, or
            a side of more than `MAX_SIDE`, or is a progressive JPEG with so many scans that decoding takes minutes.
        PIL.UnidentifiedImageError: The format is not supported, or the file is damaged.
    """
    image = Image.open(file, formats=formats())
    if max(image.size) > MAX_SIDE:
        raise Image.DecompressionBombError(
            f"{image.width} x {image.height} pixels, a side may have {MAX_SIDE}"
        )
    if "progressive" in image.info:
        file.seek(0)
        scans = sum(part.count(SCAN_START) for part in iter(partial(file.read, 2**20), b""))
        if scans * image.width * image.height > MAX_SCANNED_PIXELS:
            raise Image.DecompressionBombError(f"{scans} scans of {image.width} x {image.height}")
    return image


def lacks_plugin(extension: str) -> bool:
    """Whether Pillow opens no files with an extension, such as `.heic` without pillow-heif."""
    formats()  # which registers the plug-in
    return bool(extension) and extension not in Image.registered_extensions()


def _check_pixels(image: Image.Image, limit: int | None):
    if limit is not None and image.width * image.height > limit:
        raise DecompressionBomb(f"{image.width} x {image.height} pixels, more than {limit}")


def reduce_jpeg(image: Image.Image, edge: int):
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size if its short side keeps a length. Other formats have no such way.

    Args:
        image: Image that is open and not decoded yet.
        edge: Length of the short side that is enough, in pixels.
    """
    image.draft(None, (edge, edge))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to upright 8-bit RGB.

    Transparent images are flattened onto white. Pixels of 16 bits, 32 bits or floating point are scaled to 8 bits.

    Returns:
        The converted image; the image itself if it is in memory and needs no change.
    """
    image.load()  # before the orientation is read: Pillow turns a TIFF file upright by itself
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF; the pixels may be sound
        turn = None
    if turn is not None:
        image = image.transpose(turn)
        # EXIF and XMP still tell the orientation of the file, and would turn the image again
        image.info = {key: image.info[key] for key in image.info if key == "transparency"}
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_eight_bits(image)
    if image.mode in ("RGB", "L") and "transparency" not in image.info:
        # the copy of a file's image lets go of the content of the file
        is_plain = image.mode == "RGB" and type(image) is Image.Image
        return image if is_plain else image.convert("RGB")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    if image.getchannel("A").getextrema() != (EIGHT_BITS, EIGHT_BITS):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale gray values by the smallest usual range that holds them: 0..1 for floats, 8 bits or 16 bits."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0)
    largest = values.max(initial=0.0)
    if image.mode == "F" and largest <= 1:
        values *= EIGHT_BITS
    elif image.mode.startswith("I;16") or largest > EIGHT_BITS:
        values *= EIGHT_BITS / max(largest, SIXTEEN_BITS)
    return Image.fromarray(values.round().clip(0, EIGHT_BITS).astype(np.uint8))


def crop_to_aspect(image: Image.Image) -> Image.Image:
    """Crop the center of an image whose longer side is more than `MAX_ASPECT_RATIO` times the shorter one.

    A center crop after the resize keeps less than that. Without this crop, an image of 200,000 x 1 pixels would be
    resized to gigabytes. Models that squash images take them whole.
    """
    width, height = (min(edge, MAX_ASPECT_RATIO * min(image.size)) for edge in image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def lower_tall(image: Image.Image, height: int, resample: int) -> Image.Image:
    """Resize the height of an image that is more than `MAX_ASPECT_RATIO` times as tall as wide.

    Widened first, an image of 1 x 200,000 pixels that is squashed would take gigabytes.
    """
    is_tall = image.height > MAX_ASPECT_RATIO * image.width
    return image.resize((image.width, height), resample) if is_tall else image


def square_input(edge: int, squash: bool) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes of the resize and of the center crop that give a square, as image processors of transformers state them.

    Args:
        edge: Edge of the square in pixels.
        squash: Whether the whole image is resized to the square, instead of its short side.
    """
    square = {"height": edge, "width": edge}
    return (square if squash else {"shortest_edge": edge}), square


def fit_box(
    width: int, height: int, size: Mapping[str, int], crop: Mapping[str, int]
) -> tuple[int, int, int, int]:
    """Size of an image after its resize, and the place of the center crop in it.

    Args:
        width: Width of the image in pixels.
        height: Its height.
        size: `height` and `width`, or `shortest_edge`, in pixels; empty without a resize.
        crop: `height` and `width`; empty without a crop.

    Returns:
        Width, height, and the left and upper margin of the crop. Half pixels are rounded down, as by transformers.
        torchvision, and with it open_clip, rounds some up.
    """
    if "height" in size:
        width, height = size["width"], size["height"]
    elif size:
        shorter = min(width, height)
        width, height = (int(size["shortest_edge"] * side / shorter) for side in (width, height))
    if not crop:
        return width, height, 0, 0
    return width, height, (width - crop["width"]) // 2, (height - crop["height"]) // 2


def fit_image(
    image: Image.Image,
    size: Mapping[str, int],
    crop: Mapping[str, int],
    resample: int = Image.Resampling.BICUBIC,
) -> Image.Image:
    """Resize an RGB image with Pillow and crop its center, by the numbers of `fit_box`.

    The image processors of transformers, and training, resize with torch, which differs by at most 1 of 255 in most
    pixels.
    """
    if "height" not in size:  # a model that squashes images takes them whole
        image = crop_to_aspect(image)
    width, height, left, top = fit_box(*image.size, size, crop)
    image = lower_tall(image, height, resample)
    # the width first, as torchvision does: from version 13, Pillow resizes the height of some tall images first
    for target in ((width, image.height), (width, height)):
        if target != image.size:
            image = image.resize(target, resample)
    return image.crop((left, top, left + crop["width"], top + crop["height"])) if crop else image


def squashes(image_processor: Any) -> bool:
    """Whether a transformers image processor resizes the whole image to a fixed height and width.

    Otherwise it keeps the aspect ratio, and crops the center.
    """
    size = getattr(image_processor, "size", None)
    return not isinstance(size, int | None) and size.get("height") is not None


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or a folder of the system, which holds copies of images."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def map_ahead(
    function: Callable[[Any], Any], items: Iterable[Any], threads: int, ahead: int
) -> Iterator[Any]:
    """Results of a function, such as a decoder, for all items in order, computed in threads: at most `ahead` + 1 at a
    time.
    """
    pool = ThreadPoolExecutor(threads, "dcclip")
    waiting: deque[Future[Any]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # cancel the remaining jobs after an early stop or an error
        pool.shutdown(cancel_futures=True)


@cache
def formats() -> tuple[str, ...]:
    """The formats that this build of Pillow can open, and HEIF where its plug-in is installed."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


__all__ = [
    "SUFFIXES",
    "DecompressionBomb",
    "ImageError",
    "crop_to_aspect",
    "fit_box",
    "fit_image",
    "formats",
    "is_hidden",
    "lower_tall",
    "map_ahead",
    "open_header",
    "open_image",
    "open_regular",
    "reduce_jpeg",
    "square_input",
    "squashes",
    "to_rgb",
]
