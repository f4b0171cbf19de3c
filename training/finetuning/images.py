"""Find the image file of each row of a table."""

import os
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from training.evaluation.sets.sources import is_image
from training.utils.files import CLAIM_FOLDER

MAX_FILES = 500_000  # files that are looked at below the folder of a table


class ImageFinder:
    """Finds image files by the paths that a table names.

    A path is absolute, or relative to the folder of the table. A path that leads nowhere from there is looked up among
    all images below this folder by its end, such as `shoes/1.jpg` or `1.jpg`, and without a suffix by its name. Two
    images that fit are no answer.

    Args:
        folder: Folder of the table.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, name: str) -> Path | None:
        """Absolute path of an image file; None if there is none, or several fit."""
        name = name.strip().replace("\\", "/")
        if not name or "\0" in name:
            return None
        path = Path(os.path.expanduser(name.removeprefix("file://")))
        try:
            if (self.folder / path).is_file():
                return (self.folder / path).absolute()
        except OSError:  # a caption is too long for a path
            return None
        if path.is_absolute():
            return None
        if not (parts := PurePosixPath(_normal(name)).parts):  # such as `.`
            return None
        *folders, last = parts
        found = [path for path in self._by_name.get(last, []) if _ends_with(path.parent, folders)]
        return found[0] if len(found) == 1 else None

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """Images below the folder, by file name and by file name without its suffix, in normal form."""
        found: dict[str, list[Path]] = {}
        for path in list_images(self.folder):
            for name in {_normal(path.name), _normal(path.stem)}:
                found.setdefault(name, []).append(path)
        return found


def _normal(name: str) -> str:
    """A name in lower case, with composed characters: macOS writes an accent as a character of its own."""
    return unicodedata.normalize("NFC", name).lower()


def _ends_with(folder: Path, parts: list[str]) -> bool:
    return not parts or [_normal(part) for part in folder.parts[-len(parts) :]] == parts


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder and of all folders below it, as absolute paths in order.

    Hidden folders are left out, and so are folders below that a command of this project wrote.

    Args:
        folder: Existing folder.

    Raises:
        ValueError: The folder has too many files to be one of images.
    """
    return sorted(_walk(folder))


def is_output(folder: Path) -> bool:
    """Whether a folder was written by a command of this project, such as the output of an earlier run on the data."""
    return (folder / CLAIM_FOLDER).is_dir()


def _walk(folder: Path) -> Iterator[Path]:
    num_files = 0
    for parent, names, files in os.walk(folder.absolute()):
        names[:] = [name for name in names if not name.startswith(".") and not is_output(Path(parent, name))]
        num_files += len(files)
        if num_files > MAX_FILES:
            raise ValueError(
                f"data: there are more than {MAX_FILES:,} files below {str(folder)!r}. Move images and captions to a "
                "folder of their own."
            )
        for name in files:
            if is_image(Path(name)):
                yield Path(parent, name)
