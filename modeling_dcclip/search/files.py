"""Image files below a folder, and the state of a file."""

import hashlib
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


def _extensions(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


STILLS = _extensions("avif bmp gif heic heif hif jfif jp2 jpe jpeg jpg mpo png tif tiff webp")
RAW_PHOTOS = _extensions("arw cr2 cr3 dng nef nrw orf pef raf rw2 rwl sr2 srw")
VIDEOS = _extensions("3gp avi m2ts m4v mkv mov mp4 mpeg mpg mts webm wmv")
EXTENSIONS = STILLS | RAW_PHOTOS | VIDEOS
LIVE_BYTES = 10 * 2**20
NAME_DATE = re.compile(
    r"(?<!\d)((?:19[89]|20[0-4])\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])"
    r"(?:(?: at |[ _T-])?([01]\d|2[0-3])[-_.:]?([0-5]\d)[-_.:]?([0-5]\d)\d{0,3})?(?!\d)"
)
WRITTEN_DATE = re.compile(r"(?<!\d)(\d{4})年(\d\d?)月(\d\d?)日")
MILLISECONDS = re.compile(
    r"(?:mmexport|wx_camera_|microMsg\.|企业微信截图_)(1\d{12})"
)  # WeChat, since 1970
BACKUP = re.compile(r"(?<![a-z])(back[ _-]?ups?|bak|trash)(?![a-z])|备份|副本|回收站")
SYSTEM_FOLDERS = frozenset(
    {"@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
)


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
        return hashlib.blake2b(
            b"%d %d " % (self.size, self.mtime_ns) + self.path, digest_size=8
        ).hexdigest()

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

    def __init__(self, cause: str, is_lasting: bool):
        super().__init__(cause)
        self.cause, self.is_lasting = cause, is_lasting
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
        waiting, visited = [os.fsencode(self.folder)], set[tuple[int, int]]()
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
            stills = {
                os.path.splitext(each.name)[0]
                for each in inside
                if extension_of(each.name) in STILLS
            }
            below = []
            for entry in inside:
                name = os.fsdecode(entry.name)
                is_hidden = name.startswith(".") or name.lower() in SYSTEM_FOLDERS
                if is_hidden or self._is_excluded(entry.path):
                    continue
                extension = extension_of(entry.name)
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    if not entry.is_symlink():  # deleted since the folder was listed
                        continue
                    if extension in EXTENSIONS:  # read, and so counted as a failure
                        yield FileState.of(entry.path, entry.stat(follow_symlinks=False))
                    else:  # perhaps to a folder on a disk that is not mounted
                        self.unreadable.append(entry.path)
                    continue
                except OSError:  # the folder cannot be entered, or its disk fails: what the index has of it stays
                    closed = entry.path if entry.is_symlink() else path
                    if closed not in self.unreadable:
                        self.unreadable.append(closed)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    below.append(entry.path)
                elif (
                    extension == ".mov"
                    and status.st_size < LIVE_BYTES
                    and os.path.splitext(entry.name)[0] in stills
                ):
                    continue  # the motion of an iPhone's live photo
                elif stat.S_ISREG(status.st_mode) and extension in EXTENSIONS:
                    yield FileState.of(entry.path, status)
                else:
                    self.others[extension] += 1
            waiting += reversed(below)

    def excludes(self, path: Path) -> bool:
        """Whether a path below the folder, or a folder on the way to it, is excluded."""
        above = [each for each in (path, *path.parents) if self.folder in each.parents]
        return any(self._is_excluded(os.fsencode(each)) for each in above)

    def _is_excluded(self, path: bytes) -> bool:
        whole, below = (
            search_text(path),
            search_text(path[len(with_separator(os.fsencode(self.folder))) :]),
        )
        for pattern in self.excluded:
            glob = pattern.rstrip("/").replace("[", "[[]")
            is_match = fnmatchcase(
                below if "/" in pattern else below.rpartition("/")[2], glob.lstrip("/")
            )
            if is_match or (os.path.isabs(glob) and fnmatchcase(whole, glob)):
                return True
        return False


def patterns_of(texts: Sequence[str]) -> list[str]:
    """Non-empty patterns in the normal form of paths."""
    plain = [os.path.expanduser(text).removeprefix("./") for text in texts]
    return [
        pattern
        for pattern in (search_text(os.fsencode(text)) for text in plain)
        if pattern.strip("/")
    ]


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
            year, month, day, hour, minute, second = [
                *(int(part or 0) for part in match.groups()),
                0,
                0,
                0,
            ][:6]
            found = datetime(year, month, day, hour, minute, second)
            if found < datetime.now():
                return str(found)
    return None


def is_in_backup(path: bytes) -> bool:
    """Whether a folder of a path has the name of a backup."""
    return BACKUP.search(search_text(os.path.dirname(path))) is not None


def with_separator(folder: bytes) -> bytes:
    """The prefix of all paths below a folder: its path and a separator."""
    return folder.rstrip(os.fsencode(os.sep)) + os.fsencode(os.sep)


def extension_of(name: bytes) -> str:
    """Extension of a file in lower case, with its dot; empty without one."""
    return os.path.splitext(os.fsdecode(name))[1].lower()
