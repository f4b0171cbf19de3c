"""Photographs on disk: find them below folders, and read one with its digest and date.

Folders are walked in the order of their names. A directory that several symbolic links of a folder lead to is walked
once, so loops end. Hidden and system directories are skipped.
"""

import hashlib
import io
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from PIL import Image

if __package__:
    from .image_dcclip import open_header, reduce_jpeg, to_rgb
else:  # in a model folder
    from image_dcclip import open_header, reduce_jpeg, to_rgb  # type: ignore[no-redef]

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".jp2"}
    | {".heic", ".heif", ".hif", ".avif"}
)
RAW_EXTENSIONS = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2"}
    | {".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)
SYSTEM_FOLDERS = frozenset({"@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"})
EXIF_IFD, DATE_TIME, DATE_TIME_ORIGINAL, DATE_TIME_DIGITIZED = 0x8769, 0x0132, 0x9003, 0x9004
ATTEMPTS = 2  # a file that changes while it is read is read once more
WHOLE_BYTES = 32 * 2**20  # a file up to this size is read once, for its digest and its image


@dataclass(frozen=True)
class FileState:
    """What tells whether a file is unchanged.

    Args:
        path: Absolute path, as the bytes that the operating system uses.
        size: Size in bytes.
        mtime_ns: Time of the last modification, in nanoseconds since 1970.
    """

    path: bytes
    size: int
    mtime_ns: int

    @property
    def version(self) -> str:
        """Digest of all fields, 16 hexadecimal digits."""
        return hashlib.blake2b(b"%d %d " % (self.size, self.mtime_ns) + self.path, digest_size=8).hexdigest()

    @classmethod
    def of(cls, path: bytes, status: os.stat_result) -> "FileState":
        """State of a file, with a time that fits 64 bits: a wrong clock gives years that do not."""
        return cls(path, status.st_size, max(-(2**63), min(status.st_mtime_ns, 2**63 - 1)))


@dataclass
class Walk:
    """A walk over folders; iterate over it for the files.

    Args:
        folders: Folders to walk.
        skipped: Absolute paths of directories inside them that are left out.
        excluded: Patterns of files and directories that are left out, by the folder that they are in.
        unreadable: Absolute paths of directories that could not be read, filled by the walk.
        dangling: Absolute paths of symbolic links that lead nowhere, filled by the walk.
        others: Number of files that are not indexed, by their extension in lower case, filled by the walk.
    """

    folders: list[Path]
    skipped: frozenset[bytes] = frozenset()
    excluded: Mapping[Path, Sequence[str]] = field(default_factory=dict)
    unreadable: list[bytes] = field(default_factory=list)
    dangling: list[bytes] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[FileState]:
        for folder in self.folders:
            yield from self._walk(os.fsencode(folder.absolute()))

    def _walk(self, folder: bytes) -> Iterator[FileState]:
        waiting, visited = [folder], self._skipped_below(folder)
        while waiting:
            path = waiting.pop()
            try:
                found = os.stat(path)
                if (found.st_dev, found.st_ino) in visited:
                    continue
                visited.add((found.st_dev, found.st_ino))
                with os.scandir(path) as entries:
                    inside = sorted(entries, key=lambda entry: entry.name)
            except OSError:
                self.unreadable.append(path)
                continue
            below = []
            for entry in inside:
                if _is_hidden(entry.name):
                    continue
                try:
                    if entry.path in self.skipped or self.is_excluded(entry.path):
                        continue
                    if entry.is_dir():
                        below.append(entry.path)
                        continue
                    is_image = _is_image(entry.name)
                    status = entry.stat() if is_image or entry.is_symlink() else None
                except OSError:  # such as a symbolic link in a circle, or one to a missing file
                    self.dangling.append(entry.path)
                    continue
                if not is_image:
                    self.others[_extension(entry.name)] += 1
                elif status is not None and stat.S_ISREG(status.st_mode):
                    yield FileState.of(entry.path, status)
            waiting += reversed(below)

    def is_excluded(self, path: bytes) -> bool:
        """Whether a pattern leaves a path out. One with a slash is for paths below its folder, others for names."""
        for folder, patterns in self.excluded.items():
            start = with_separator(os.fsencode(folder))
            if not path.startswith(start):
                continue
            below = search_text(path[len(start) :]).replace(os.sep, "/")
            name = below.rpartition("/")[2]
            for pattern in patterns:
                glob = pattern.strip("/").replace("[", "[[]")
                if fnmatchcase(below if "/" in pattern else name, glob):
                    return True
        return False

    def _skipped_below(self, folder: bytes) -> set[tuple[int, int]]:
        """Device and inode of the directories below a folder that are left out, to which links may lead as well."""
        found = set()
        for path in self.skipped:
            with suppress(OSError):
                if path.startswith(with_separator(folder)):
                    status = os.stat(path)
                    found.add((status.st_dev, status.st_ino))
        with suppress(OSError):  # a link may lead back to the folder itself
            status = os.stat(folder)
            found.discard((status.st_dev, status.st_ino))
        return found


def search_text(path: bytes) -> str:
    """Path in the form in which patterns compare it: lower case, composed characters, no invalid bytes."""
    return unicodedata.normalize("NFC", path.decode("utf-8", "replace")).lower()


def with_separator(folder: bytes) -> bytes:
    """The path of a folder and a separator, with which the paths below it start."""
    return folder.rstrip(os.fsencode(os.sep)) + os.fsencode(os.sep)


def _is_hidden(name: bytes) -> bool:
    return name.startswith(b".") or os.fsdecode(name).lower() in SYSTEM_FOLDERS


def _is_image(name: bytes) -> bool:
    return _extension(name) in EXTENSIONS


def _extension(name: bytes) -> str:
    return os.path.splitext(os.fsdecode(name))[1].lower()


def distinct_files(paths: Sequence[str]) -> list[int]:
    """Find out which paths lead to files of their own: to delete the others would delete no copy, but the only file.

    Args:
        paths: Paths of files, which need not exist.

    Returns:
        Positions of one path for each file, in order. A path without symbolic links comes before others.
    """
    chosen: dict[tuple[int, int], int] = {}
    alone = []
    for position in sorted(range(len(paths)), key=lambda position: _is_linked(paths[position])):
        try:
            found = os.stat(paths[position])
        except (OSError, ValueError):  # the file is gone, or the path is the name of an image in a collection
            alone.append(position)
            continue
        chosen.setdefault((found.st_dev, found.st_ino), position)
    return sorted([*chosen.values(), *alone])


def _is_linked(path: str) -> tuple[bool, bool]:
    """Whether a path leads over a symbolic link, and whether its last part is one."""
    return os.path.realpath(path) != path, os.path.islink(path)


class UnreadablePhotoError(ValueError):
    """A file cannot be read as an image.

    Args:
        cause: Short cause, the same for all files that fail alike.
        is_lasting: Whether the file fails again until it changes.
    """

    def __init__(self, cause: str, is_lasting: bool):
        super().__init__(cause)
        self.cause, self.is_lasting = cause, is_lasting
        self.state: FileState | None = None  # the state that fails, if it lasts


@dataclass(frozen=True)
class Photo:
    """A file that was read as an image.

    Args:
        state: State of the file while it was read.
        digest: Digest of its content, 16 bytes.
        taken: Date and time of EXIF at which it was taken, `YYYY-MM-DD HH:MM:SS`; None without one, or if the content
            is known.
        image: The decoded image, upright 8-bit RGB on white; None if the content is known.
    """

    state: FileState
    digest: bytes
    taken: str | None
    image: Image.Image | None


def read_photo(path: bytes, is_known: Callable[[bytes], bool], edge: int | None = None) -> Photo:
    """Read a photograph.

    Args:
        path: Path of the file.
        is_known: Function that tells from the digest of its content whether the image need not be decoded.
        edge: Length of the shorter side that is enough, in pixels; JPEG files are decoded at 1/2, 1/4 or 1/8 of their
            size if that is not less. None decodes the full size.

    Returns:
        The photograph, with the state of the file during the read.

    Raises:
        UnreadablePhotoError: The file is missing, cannot be read or decoded, or changes all the time.
    """
    for _ in range(ATTEMPTS):
        failure = taken = image = None
        try:
            with open(path, "rb") as file:
                before = os.fstat(file.fileno())
                source = io.BytesIO(file.read()) if before.st_size <= WHOLE_BYTES else file
                digest = hashlib.file_digest(source, lambda: hashlib.blake2b(digest_size=16)).digest()
                if not is_known(digest):
                    try:
                        taken, image = decode_photo(source, edge, path)
                    except UnreadablePhotoError as error:
                        failure = error
                after = os.stat(path)
        except OSError as error:
            raise UnreadablePhotoError(_cause(error), is_lasting=False) from error
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            state = FileState.of(path, after)
            if failure is None:
                return Photo(state, digest, taken, image)
            failure.state = state if failure.is_lasting else None
            raise failure
    raise UnreadablePhotoError("changed while it was read", is_lasting=False)


def decode_photo(file: BinaryIO, edge: int | None = None, path: bytes = b"") -> tuple[str | None, Image.Image]:
    """Decode an open image file.

    Args:
        file: The file, or its content as `io.BytesIO`.
        edge: Length of the shorter side that is enough, in pixels, as for `read_photo`.
        path: Path of the file, whose extension may tell why it cannot be decoded.

    Returns:
        Date by EXIF, and the upright image in 8-bit RGB on white.

    Raises:
        UnreadablePhotoError: The file cannot be decoded.
    """
    file.seek(0)
    try:
        with open_header(file) as image:
            if edge is not None:
                reduce_jpeg(image, edge)
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > 2 * Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError  # of a JPEG; Pillow refuses other files by itself
            return _date(image), to_rgb(image)
    except Image.DecompressionBombError as error:
        raise UnreadablePhotoError("too many pixels", is_lasting=True) from error
    except Image.UnidentifiedImageError as error:
        extension = _extension(path)
        if not extension or extension in Image.registered_extensions():
            raise UnreadablePhotoError("not an image, or damaged", is_lasting=True) from error
        cause = f"{extension} needs a plug-in of Pillow, such as pillow-heif for HEIC"
        raise UnreadablePhotoError(cause, is_lasting=False) from error
    except MemoryError as error:
        raise UnreadablePhotoError("too large for the memory", is_lasting=False) from error
    except Exception as error:  # decoders raise many kinds, such as SyntaxError and struct.error
        is_io = isinstance(error, OSError) and error.errno is not None
        raise UnreadablePhotoError(_cause(error) if is_io else "damaged", is_lasting=not is_io) from error


def _cause(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or type(error).__name__).lower()


def _date(image: Image.Image) -> str | None:
    """Date and time of EXIF at which an image was taken, by the first tag that has one."""
    with suppress(Exception):  # damaged EXIF data, of an image that may still be decoded
        exif = image.getexif()
        details: Mapping[int, object] = {}
        with suppress(Exception):  # a damaged part, beside which the rest may be sound
            details = exif.get_ifd(EXIF_IFD)
        for text in (details.get(DATE_TIME_ORIGINAL), details.get(DATE_TIME_DIGITIZED), exif.get(DATE_TIME)):
            with suppress(ValueError):  # such as zeros, of a camera whose clock was not set
                return str(datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S"))
    return None
