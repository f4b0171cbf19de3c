"""Open images in one way everywhere: training, processor, evaluation, endpoint, runtime and Space.

An opened image is upright (EXIF orientation), 8-bit RGB, and opaque: transparent images are flattened onto white.
"""

import io
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

# formats that are opened; some others that Pillow knows start a program (EPS) or crash on damaged files
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_ASPECT_RATIO = 32  # longer images are cropped to it before they are resized, to save time and memory
REDUCING_GAP = 2  # a JPEG is decoded at 1/2, 1/4 or 1/8 if twice the target size is left, as in Pillow's thumbnail
ORIENTATION = 0x0112  # EXIF tag with the orientation of the camera
BAND_ROWS = 256  # of an image whose pixels are scaled
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
        size: Short side in pixels to which the caller will resize the image, so that a large JPEG can be decoded
            smaller. Default: full size.
        max_pixels: Largest number of pixels, checked before the image is decoded. Default: Pillow's limit,
            `PIL.Image.MAX_IMAGE_PIXELS`.
        gap: Smallest multiple of `size` that the short side of a JPEG keeps, at least 1.

    Raises:
        DecompressionBomb: The image has too many pixels.
        ImageError: The file has another format, or is damaged.
        OSError: There is no such file, or it cannot be read.
    """
    limit = Image.MAX_IMAGE_PIXELS if max_pixels is None else max_pixels
    if isinstance(source, (str, Path)):
        source = Path(source).read_bytes()
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats()) as image:
            if limit is not None and image.width * image.height > limit:  # Pillow only warns, up to twice its limit
                raise DecompressionBomb(f"{image.width} x {image.height} pixels, more than {limit}")
            if size is not None:
                reduce_jpeg(image, gap * size)
            return to_rgb(image)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecompressionBomb(str(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # on damaged files, Pillow's plugins raise nearly every type
        raise ImageError(f"{type(error).__name__}: {error}") from error


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
        The converted image; the image itself if there is nothing to convert.
    """
    if image.getexif().get(ORIENTATION, 1) != 1:  # exif_transpose would copy an upright image
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_eight_bits(image)
    if image.mode in ("RGB", "L") and "transparency" not in image.info:
        image.load()  # the file may be closed next
        return image if image.mode == "RGB" else image.convert("RGB")  # convert would copy it
    if image.mode != "RGBA":  # convert would copy an RGBA image
        image = image.convert("RGBA")
    if image.getchannel("A").getextrema() == (255, 255):  # opaque; compositing would be the slowest step
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(canvas, image).convert("RGB")


def crop_to_aspect(image: Image.Image) -> Image.Image:
    """Crop the center of an image whose longer side is more than `MAX_ASPECT_RATIO` times the shorter one.

    A center crop after the resize keeps less than that. Without this crop, an image of 200,000 x 1 pixels would be
    resized to gigabytes.
    """
    width, height = (min(edge, MAX_ASPECT_RATIO * min(image.size)) for edge in image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


@cache
def formats() -> tuple[str, ...]:
    """The formats that this build of Pillow can open, and HEIF where its plug-in is installed."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale gray values to 0..255 by the smallest usual range that holds them: 0..1 for floats, 8 bits, 16 bits."""
    values = np.asarray(image)
    bands = range(0, len(values), BAND_ROWS)  # a large image as float64 would take gigabytes
    largest = max((_finite(values[start : start + BAND_ROWS]).max(initial=0.0) for start in bands), default=0.0)
    if image.mode == "F" and largest <= 1:
        scale: float = EIGHT_BITS
    elif image.mode in ("I", "F") and largest <= EIGHT_BITS:
        scale = 1
    else:
        scale = EIGHT_BITS / max(largest, SIXTEEN_BITS)
    scaled = np.empty(values.shape, np.uint8)
    for start in bands:
        band = _finite(values[start : start + BAND_ROWS]) * scale
        scaled[start : start + BAND_ROWS] = band.round().clip(0, EIGHT_BITS)
    return Image.fromarray(scaled)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(values.astype(np.float64))


__all__ = ["DecompressionBomb", "ImageError", "crop_to_aspect", "formats", "open_image", "reduce_jpeg", "to_rgb"]
