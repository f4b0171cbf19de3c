"""What the page does with photographs, for the person at this machine: copies, ZIP files, the trash, other programs.

Nothing is overwritten, and nothing is deleted: what goes to the trash of the system can be put back.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO

from modeling_dcclip.search.catalog import File
from modeling_dcclip.search.messages import Message, UserError, cause_of
from modeling_dcclip.search.photos import UnreadablePhotoError, open_file

ZIP_NAME = "photographs.zip"
WAIT_S = 1.0  # for a program that fails

# path and cause of each file that an action left as it was
Failures = list[tuple[str, Message]]


def export(files: Sequence[File], folder: str, as_zip: bool) -> tuple[int, Path, Failures]:
    """Copy photographs into a folder, with the times of their last changes. Names that are taken get a number.

    Args:
        files: Files to copy.
        folder: Folder to copy to; it is created. `~` is the home folder.
        as_zip: Whether to write one ZIP file instead, uncompressed.

    Returns:
        Number of files that were copied, the folder or the ZIP file, and the files that are gone or cannot be read.

    Raises:
        ValueError: The folder is not a whole path, or cannot be written.
    """
    target = Path(folder).expanduser()
    if not target.is_absolute():
        raise UserError(
            "folder: {!r} is not a whole path. Write one such as ~/Pictures/Selection.", folder
        )
    try:
        target.mkdir(parents=True, exist_ok=True)
        if not as_zip:
            number, failures = _each(files, lambda file: _copy(file, target))
            return number, target, failures
        place, output = _create(target / ZIP_NAME)
        try:
            with output, zipfile.ZipFile(output, "w", strict_timestamps=False) as archive:
                names = set[str]()
                number, failures = _each(files, lambda file: _pack(file, archive, names))
        except BaseException:
            place.unlink()
            raise
        if not number:
            place.unlink()
        return number, place if number else target, failures
    except OSError as error:
        raise _cannot_write(target, error) from error


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(
        "folder: cannot write to {!r} ({}). Name a different folder, or free some space.",
        str(path),
        Message(cause_of(error)),
    )


def _each(files: Sequence[File], act: Callable[[File], None]) -> tuple[int, Failures]:
    """Do something with each file, and count those that were not unreadable."""
    failures: Failures = []
    for file in files:
        try:
            if not file.state.is_current():
                raise UnreadablePhotoError("changed since it was indexed")
            act(file)
        except UnreadablePhotoError as error:
            failures.append((file.path, error.cause))
    return len(files) - len(failures), failures


def _copy(file: File, folder: Path):
    with open_file(file.state.path) as source:
        place, output = _create(folder / os.path.basename(file.path))
        try:
            with output:
                shutil.copyfileobj(source, output)
            shutil.copystat(file.path, place)
        except BaseException:
            place.unlink()
            raise


def _pack(file: File, archive: zipfile.ZipFile, names: set[str]):
    with open_file(file.state.path) as source:
        name = next(
            each for each in _numbered(os.path.basename(file.path)) if each.lower() not in names
        )
        names.add(name.lower())
        # a name may have bytes that UTF-8 cannot encode
        shown = os.fsencode(name).decode("utf-8", "replace")
        entry = zipfile.ZipInfo.from_file(file.path, shown, strict_timestamps=False)
        try:
            with archive.open(entry, "w") as output:
                shutil.copyfileobj(source, output)
        except OSError as error:  # a part of it may be in the archive, which is then removed
            raise _cannot_write(Path(str(archive.filename)), error) from error


def _create(path: Path) -> tuple[Path, BinaryIO]:
    """Create a file, with a number in its name if that is taken."""
    for name in _numbered(path.name):
        with suppress(FileExistsError):
            return path.with_name(name), path.with_name(name).open("xb")
    raise AssertionError  # there is always a further number


def _numbered(name: str) -> Iterator[str]:
    yield name
    stem, extension = os.path.splitext(name)
    for number in count(2):
        yield f"{stem} ({number}){extension}"


class Trash:
    """Photographs that the page moved to the trash of the system, which it can put back."""

    def __init__(self):
        # each with the device and the number of its file, by its id in the index
        self._moved: dict[int, tuple[File, tuple[int, int]]] = {}

    @property
    def ids(self) -> frozenset[int]:
        """Ids of the files that are there: the index has them until its next update."""
        return frozenset(self._moved)

    @property
    def rows(self) -> frozenset[int]:
        """Rows of their vectors."""
        return frozenset(file.row for file, _ in self._moved.values())

    def move(self, files: Sequence[File]) -> Failures:
        """Move files to the trash, and return those that it refuses."""
        try:
            from send2trash import send2trash  # which looks for the trash when it is imported
        except ImportError as error:
            name = "send2trash"
            raise UserError("{} is not installed. Run: pip install {}", name, name) from error

        def move(file: File):
            try:
                found = os.lstat(file.path)
                send2trash(file.path)
            except Exception as error:  # each system has errors of its own
                raise UnreadablePhotoError(cause_of(error)) from error
            self._moved[file.id] = file, (found.st_dev, found.st_ino)

        return _each(files, move)[1]

    def put_back(self, ids: Sequence[int]) -> tuple[list[int], Failures]:
        """Move files back to where they were; returns their ids, and the files that are not in the trash any more."""
        failures: Failures = []
        restored = []
        for number in ids:
            if number not in self._moved:
                continue
            file, key = self._moved[number]
            path = file.path
            try:
                if os.path.lexists(path):
                    raise FileExistsError(0, Message("a different file is there now"))
                found = _find(path, key)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.rename(found, path)
                # freedesktop.org has a second file for each
                note = found.parents[1] / "info" / f"{found.name}.trashinfo"
                note.unlink(missing_ok=True)
            except OSError as error:
                failures.append((path, Message(cause_of(error))))
                continue
            del self._moved[number]
            restored.append(number)
        return restored, failures


def _find(path: str, key: tuple[int, int]) -> Path:
    """Place in the trash of a file that was at a path, by its device and number: it may have a different name there.

    Raises:
        FileNotFoundError: It is not there.
    """
    for folder in _trash_folders(path):
        with suppress(OSError):  # a trash may not exist, or belong to a different user
            for entry in folder.iterdir():
                found = entry.lstat()
                if (found.st_dev, found.st_ino) == key:
                    return entry
    raise FileNotFoundError(0, Message("it is not in the trash any more"))


def _trash_folders(path: str) -> Iterator[Path]:
    """Folders in which the system may keep a file that was at a path."""
    mount = next(each for each in Path(path).parents if each.is_mount())
    home = Path.home()
    if sys.platform == "win32":
        with suppress(OSError):
            yield from Path(mount, "$Recycle.Bin").iterdir()
    elif sys.platform == "darwin":
        yield home / ".Trash"
        yield mount / ".Trashes" / str(os.getuid())
    else:
        data = os.environ.get("XDG_DATA_HOME") or home / ".local" / "share"
        yield Path(data, "Trash", "files")
        yield mount / ".Trash" / str(os.getuid()) / "files"
        yield mount / f".Trash-{os.getuid()}" / "files"


def opener(path: str) -> list[str]:
    """Command that opens a file with the program of the system."""
    if sys.platform == "win32":
        return ["explorer", path]
    return ["open" if sys.platform == "darwin" else "xdg-open", path]


def file_manager(path: str) -> list[str]:
    """Command that shows a file in the file manager."""
    if sys.platform == "darwin":
        return ["open", "-R", path]
    if sys.platform == "win32":
        return ["explorer", "/select,", path]
    return ["xdg-open", os.path.dirname(path)]


def start(command: Sequence[str]) -> bool:
    """Start a program, which may run until its window is closed; whether it did not fail at once."""
    failed = shutil.which(command[0]) is None
    with suppress(subprocess.TimeoutExpired):
        failed = failed or subprocess.Popen(command).wait(WAIT_S) != 0
    return not failed or sys.platform == "win32"  # explorer fails always
