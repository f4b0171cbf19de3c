"""Image files below folders, and the state of a file.

Folders are walked in the order of their names. A directory that several symbolic links of a folder lead to is walked
once, so loops end. Hidden and system directories are skipped.
"""

import hashlib
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".jp2"}
    | {".heic", ".heif", ".hif", ".avif"}
)
RAW_EXTENSIONS = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2"}
    | {".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)
SYSTEM_FOLDERS = frozenset({"@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"})


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

    def is_current(self) -> bool:
        """Whether the file is there and has not changed."""
        try:
            return FileState.of(self.path, os.stat(self.path)) == self
        except OSError:
            return False


@dataclass
class Walk:
    """A walk over folders; iterate over it for the files.

    Args:
        folders: Folders to walk.
        skipped: Absolute paths of directories inside them that are left out.
        excluded: Patterns of files and directories that are left out, by the folder that they are in.
        unreadable: Absolute paths of directories that could not be read, filled by the walk.
        dangling: Absolute paths of symbolic links that lead nowhere, filled by the walk.
        mounts: Absolute paths of directories at which a disk is mounted, filled by the walk.
        others: Number of files that are not indexed, by their extension in lower case, filled by the walk.
        matched: Patterns of `excluded` that left something out, filled by the walk.
    """

    folders: list[Path]
    skipped: frozenset[bytes] = frozenset()
    excluded: Mapping[Path, Sequence[str]] = field(default_factory=dict)
    unreadable: list[bytes] = field(default_factory=list)
    dangling: list[bytes] = field(default_factory=list)
    mounts: list[bytes] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    matched: set[str] = field(default_factory=set)

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
            if is_mount(path):
                self.mounts.append(path)
            below = []
            for entry in inside:
                if is_hidden(entry.name):
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
                    self.others[extension_of(entry.name)] += 1
                elif status is not None and stat.S_ISREG(status.st_mode):
                    yield FileState.of(entry.path, status)
            waiting += reversed(below)

    def is_excluded(self, path: bytes) -> bool:
        """Whether a pattern leaves a path out."""
        found = False
        for folder, patterns in self.excluded.items():
            start = with_separator(os.fsencode(folder))
            if not path.startswith(start):
                continue
            below = search_text(path[len(start) :]).replace(os.sep, "/")
            name = below.rpartition("/")[2]
            for pattern in patterns:
                glob = pattern.rstrip("/").replace("[", "[[]")
                is_match = fnmatchcase(below if "/" in pattern else name, glob.lstrip("/"))
                if is_match or (glob.startswith("/") and fnmatchcase(search_text(path).replace(os.sep, "/"), glob)):
                    self.matched.add(pattern)
                    found = True
        return found

    def _skipped_below(self, folder: bytes) -> set[tuple[int, int]]:
        """Device and inode of the skipped directories below a folder, because links may lead to them as well."""
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


def is_mount(path: bytes) -> bool:
    """Whether a disk is mounted at a directory, or at the one that a link leads to."""
    return os.path.ismount(os.path.realpath(path))


def search_text(path: bytes) -> str:
    """Path as patterns see it: lower case, composed characters, no invalid bytes."""
    return unicodedata.normalize("NFC", path.decode("utf-8", "replace")).lower()


def with_separator(folder: bytes) -> bytes:
    """The prefix of all paths below a folder: its path and a separator."""
    return folder.rstrip(os.fsencode(os.sep)) + os.fsencode(os.sep)


def is_hidden(name: str | bytes) -> bool:
    """Whether a file or directory of this name is hidden, or belongs to the system."""
    name = os.fsdecode(name)
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def _is_image(name: bytes) -> bool:
    return extension_of(name) in EXTENSIONS


def extension_of(name: bytes) -> str:
    """Extension of a file in lower case, with its dot; empty without one."""
    return os.path.splitext(os.fsdecode(name))[1].lower()


def distinct_files(paths: Sequence[str]) -> list[int]:
    """Positions of one path per file, in order. Links to a file are not copies, and missing files do not count."""
    chosen: dict[tuple[int, int], int] = {}
    nowhere = []
    for position in sorted(range(len(paths)), key=lambda position: _is_linked(paths[position])):
        try:
            found = os.stat(paths[position])
        except (OSError, ValueError):  # the file is gone, or the path is the name of an image in a collection
            nowhere.append(position)
            continue
        chosen.setdefault((found.st_dev, found.st_ino), position)
    return sorted(chosen.values() or nowhere)


def _is_linked(path: str) -> tuple[bool, bool]:
    """Whether a path leads over a symbolic link, and whether its last part is one."""
    return os.path.realpath(path) != path, os.path.islink(path)
