"""Read photographs and videos with their digests and dates, and make thumbnails."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from modeling_dcclip.image_dcclip import SUFFIXES, lacks_plugin, open_regular
from modeling_dcclip.search.messages import UserError, cause_of
from modeling_dcclip.search.photos.decoding import MEMORY, PAGE_MEMORY, decode_photo
from modeling_dcclip.search.photos.files import (
    RAW_PHOTOS,
    VIDEOS,
    FileState,
    UnreadablePhotoError,
    content_digest,
    extension_of,
)
from modeling_dcclip.search.photos.video import read_frame, read_frames

WHOLE_BYTES = 32 * 2**20  # a file up to this size is read once, for its digest and its image
THUMBNAIL = 320  # pixels of the longer side
NARROW = 0.6  # a panorama is larger: its shorter side has so much of that, and its longer one up to WIDE times as much
WIDE = 8
QUALITY = 82


@dataclass(frozen=True)
class Photo:
    """A file that was read as an image, or as a video."""

    state: FileState  # while it was read
    digest: bytes  # digest of the content, 16 bytes
    # date and time of EXIF, `YYYY-MM-DD HH:MM:SS`; None without one, or if the content is known
    taken: str | None = None
    # a photograph, or key frames of a video: times in seconds and upright 8-bit RGB images on white; none if the
    # content is known
    frames: Sequence[tuple[float, Image.Image]] = ()


def read_photo(path: bytes, is_known: Callable[[bytes], bool], edge: int | None = None) -> Photo:
    """Read a photograph or a video.

    Args:
        path: Path of the file.
        is_known: Function that tells from the digest of its content whether the image need not be decoded.
        edge: Length of the shorter side that is enough, in pixels; JPEG files are decoded at 1/2, 1/4 or 1/8 of their
            size if that is not less. None decodes the full size.

    Returns:
        The photograph, with the state of the file during the read.

    Raises:
        UnreadablePhotoError: The file is missing, cannot be read or decoded, or changes meanwhile.
    """
    extension = extension_of(path)
    failure = taken = None
    frames: Sequence[tuple[float, Image.Image]] = ()
    with open_file(path) as file:
        before = os.fstat(file.fileno())
        source = io.BytesIO(file.read()) if before.st_size <= WHOLE_BYTES else file
        digest = content_digest(source)
        if not is_known(digest):
            try:
                if extension in VIDEOS:
                    taken, frames = read_frames(source, edge)
                else:
                    taken, image = decode_photo(source, edge, extension)
                    frames = [(0.0, image)]
            except UnreadablePhotoError as error:
                failure = error
        after = os.stat(path)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UnreadablePhotoError("changed while it was read", is_lasting=False)
    state = FileState.of(path, after)
    if failure is not None:
        failure.state = state if failure.is_lasting else None
        raise failure
    return Photo(state, digest, taken, frames)


def read_example(path: str | Path, edge: int | None) -> Image.Image:
    """Read an image that a user names exactly as photographs are indexed.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        with MEMORY.scope():
            return read_photo(os.fsencode(path), lambda digest: False, edge).frames[0][1]
    except UnreadablePhotoError as error:
        raise UserError(
            "image: {!r} cannot be read ({}). Name an image file.",
            str(path),
            error.cause,
        ) from error


def decode_sent(content: bytes, edge: int | None) -> Image.Image:
    """Decode an image file that was sent to a server, whose shorter side needs `edge` pixels, as RGB.

    Raises:
        UnreadablePhotoError: It cannot be decoded, or takes more memory than the page has.
    """
    with PAGE_MEMORY.scope():
        return decode_photo(io.BytesIO(content), edge)[1]


def make_thumbnail(path: str, edge: int = THUMBNAIL, seconds: float = 0) -> bytes:
    """Make a JPEG of at most `edge` pixels per side: upright, on white, without metadata.

    A panorama may be longer, so that its height fills a row without blur. Of a video, it shows the key frame
    at a time.
    """
    extension = extension_of(os.fsencode(path))
    with open_file(os.fsencode(path)) as file, PAGE_MEMORY.scope():
        if extension in VIDEOS:
            image = read_frame(file, seconds, edge)
        else:
            _, image = decode_photo(file, edge, extension, is_lean=True)
        return encode_thumbnail(image, edge)


def encode_thumbnail(image: Image.Image, edge: int = THUMBNAIL) -> bytes:
    """JPEG of an RGB image without metadata, at most `edge` pixels per side, or longer if it is a panorama.

    The image is reduced, too.
    """
    ratio = max(image.size) / min(image.size)
    longest = min(max(edge, round(NARROW * edge * ratio)), WIDE * edge)
    image.thumbnail((longest, longest))
    image.info.clear()
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


@contextmanager
def open_file(path: bytes) -> Iterator[io.BufferedReader]:
    """Open a file to read it.

    Raises:
        UnreadablePhotoError: It cannot be read, or the package of its format is not installed; a later run tries
            again. A pipe or a device, whose end may never come, is refused.
    """
    extension = extension_of(path)
    cause = None
    if extension in VIDEOS and find_spec("av") is None:
        cause = "video needs PyAV: pip install av"
    elif extension in RAW_PHOTOS and find_spec("rawpy") is None:
        cause = "raw photographs need rawpy: pip install rawpy"
    elif extension in SUFFIXES and lacks_plugin(extension):
        cause = "the format needs a package: pip install -U pillow pillow-heif"
    if cause is not None:
        raise UnreadablePhotoError(cause, is_lasting=False)
    try:
        with open_regular(path) as file:
            yield file
    except OSError as error:
        is_broken = isinstance(error, FileNotFoundError) and os.path.islink(path)
        cause = "link to a file that is missing" if is_broken else cause_of(error)
        raise UnreadablePhotoError(cause, is_lasting=False) from error
