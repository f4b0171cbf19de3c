"""Image files below a folder, the state of a file, and the digest of its content."""

import hashlib
import io
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any

from modeling_dcclip.image_dcclip import SUFFIXES, is_hidden
from modeling_dcclip.search.messages import Message


def _extensions(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


RAW_PHOTOS = _extensions("arw cr2 cr3 dng nef nrw orf pef raf rw2 rwl sr2 srw")
VIDEOS = _extensions("3gp avi m2ts m4v mkv mov mp4 mpeg mpg mts webm wmv")
EXTENSIONS = SUFFIXES | RAW_PHOTOS | VIDEOS
LIVE_BYTES = 10 * 2**20
NAME_DATE = re.compile(
    r"(?<!\d)((?:19[89]|20[0-4])\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])"
    r"(?:(?: at |[ _T-])?([01]\d|2[0-3])[-_.:]?([0-5]\d)[-_.:]?([0-5]\d)\d{0,3})?(?!\d)"
)
FOLDER_DATE = re.compile(
    r"(?<!\d)((?:19[89]|20[0-4])\d)(?:[-_. /年\\]?(0[1-9]|1[0-2])(?:[-_.月]?\d\d)?)?(?!\d)"
)
WRITTEN_DATE = re.compile(r"(?<!\d)(\d{4})年(\d\d?)月(\d\d?)日")
MILLISECONDS = re.compile(
    r"(?:mmexport|wx_camera_|microMsg\.|企业微信截图_)(1\d{12})"
)  # WeChat, since 1970


@dataclass(frozen=True)
class FileState:
    """What tells whether a file is unchanged.

    Args:
        path: Absolute path, as the bytes that the operating system uses, or the name of an image in a collection.
        size: Size in bytes.
        mtime_ns: Time of the last modification, in nanoseconds since 1970.
    """

    path: bytes
    size: int
    mtime_ns: int

    @property
    def version(self) -> str:
        """Digest of all fields, 16 hexadecimal digits."""
        return fingerprint(b"%d %d " % (self.size, self.mtime_ns) + self.path)

    @classmethod
    def of(cls, path: bytes, status: os.stat_result) -> "FileState":
        """State of a file, with a time that fits 64 bits: a wrong clock gives years that do not."""
        return cls(path, status.st_size, max(-(2**63), min(status.st_mtime_ns, 2**63 - 1)))

    def is_current(self) -> bool:
        """Whether the file is there and has not changed. An image of a collection is always current."""
        try:
            return (
                not os.path.isabs(self.path) or FileState.of(self.path, os.stat(self.path)) == self
            )
        except OSError:
            return False


class UnreadablePhotoError(ValueError):
    """A file cannot be read: a short cause, and whether it fails again until it changes (`is_lasting`)."""

    status_code = 404  # status of the HTTP response

    def __init__(self, cause: str, is_lasting: bool = True):
        super().__init__(cause)
        self.cause = Message(cause)
        self.is_lasting = is_lasting
        self.state: FileState | None = None  # the state that fails, if it lasts


@dataclass
class Walk:
    """A walk over a folder in the order of names; iterate over it for the image files.

    Symbolic links are followed, and each directory is walked once, so loops end. Hidden and system directories are
    skipped.

    Args:
        folder: Absolute path.
        excluded: Patterns of what is left out, from `patterns_of`.
        unreadable: Paths that may be directories and cannot be read, filled by the walk.
        others: Number of other files by their extension in lower case, filled by the walk.
    """

    folder: Path
    excluded: Sequence[str] = ()
    unreadable: list[bytes] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[FileState]:
        waiting = [os.fsencode(self.folder)]
        visited = set[tuple[int, int]]()
        while waiting:
            folder = waiting.pop()
            try:
                found = os.stat(folder)
                if (found.st_dev, found.st_ino) in visited:
                    continue
                visited.add((found.st_dev, found.st_ino))
                names = sorted(os.listdir(folder))
            except OSError:
                self.unreadable.append(folder)
                continue
            roots = {os.path.splitext(name)[0] for name in names if extension_of(name) in SUFFIXES}
            below = []
            for name in names:
                path, (root, _) = os.path.join(folder, name), os.path.splitext(name)
                if is_hidden(os.fsdecode(name)) or (self.excluded and self._is_excluded(path)):
                    continue
                extension = extension_of(name)
                try:
                    # a link to a missing photograph is read, and so counted as a failure
                    status = os.stat(path) if os.path.exists(path) else os.lstat(path)
                except FileNotFoundError:  # deleted since the folder was listed
                    continue
                except OSError:  # what the index has of it stays
                    self.unreadable.append(path)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    below.append(path)
                elif not stat.S_ISLNK(status.st_mode) and extension not in EXTENSIONS:
                    self.others[extension] += 1
                elif extension == ".mov" and status.st_size < LIVE_BYTES and root in roots:
                    continue  # the motion of an iPhone's live photo
                elif stat.S_ISREG(status.st_mode) or extension in EXTENSIONS:
                    yield FileState.of(path, status)
                else:  # a link, perhaps to a folder on a disk that is not mounted
                    self.unreadable.append(path)
            waiting += reversed(below)

    def _is_excluded(self, path: bytes) -> bool:
        whole, below = map(search_text, (path, os.path.relpath(path, os.fsencode(self.folder))))
        for pattern in self.excluded:
            glob = pattern.rstrip("/").replace("[", "[[]")
            if os.path.isabs(pattern):
                parts = [f"/{below}", whole]
            elif "/" in pattern:
                parts = [below, f"/{below}"]  # so that */work is any folder of this name
            else:
                parts = [below.rpartition("/")[2]]
            if any(fnmatchcase(part, glob) for part in parts):
                return True
        return False


def patterns_of(texts: Sequence[str]) -> list[str]:
    """Non-empty patterns in the normal form of paths."""
    plain = [os.path.expanduser(text).removeprefix("./") for text in texts if text.strip("./")]
    real = [os.path.realpath(text) if os.path.isabs(text) else text for text in plain]
    return [search_text(os.fsencode(text)) for text in real]


def search_text(path: bytes) -> str:
    """Path as patterns see it: lower case, composed characters, no invalid bytes, `/` between folders."""
    return (
        unicodedata.normalize("NFC", path.decode("utf-8", "replace")).lower().replace(os.sep, "/")
    )


def date_in_name(path: bytes) -> str | None:
    """Date and time that a camera or a messenger put into a file's name, such as `IMG_20230512_093012.jpg`."""
    name = os.path.basename(path).decode("utf-8", "replace")
    if match := MILLISECONDS.search(name):
        return str(datetime.fromtimestamp(int(match[1]) // 1000))
    for match in chain(NAME_DATE.finditer(name), WRITTEN_DATE.finditer(name)):
        with suppress(ValueError):  # such as February 31
            numbers: Any = [int(part or 0) for part in match.groups()]
            found = datetime(*numbers)
            if found < datetime.now():
                return str(found)
    return None


def date_of_folder(path: bytes) -> str | None:
    """Year, or year and month, that the folders of a file name: the last one, such as `2023/05` or `2023-05 Rome`."""
    folder = os.path.dirname(path).decode("utf-8", "replace")
    found = [*FOLDER_DATE.finditer(folder)]
    return "-".join(filter(None, found[-1].groups())) if found else None


def extension_of(name: bytes) -> str:
    """Extension of a file in lower case, with its dot; empty without one."""
    return os.path.splitext(os.fsdecode(name))[1].lower()


def content_digest(file: io.BytesIO | io.BufferedReader) -> bytes:
    """Digest of the content of a file, 16 bytes: files with the same one are copies, and share a vector."""
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def fingerprint(value: bytes) -> str:
    """Digest of a short value, such as the state of a file or settings, 16 hexadecimal digits."""
    return hashlib.blake2b(value, digest_size=8).hexdigest()
