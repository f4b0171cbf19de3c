"""Find the image file of each row of a table."""

import itertools
import os
import re
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from modeling_dcclip.search.files import is_hidden
from training.evaluation.sets.sources import is_image
from training.utils.files import is_claimed

DRIVE = re.compile("[a-zA-Z]:/")  # of an absolute path under Windows
MAX_FILES = 500_000  # files that are looked at below the folder of a table


class ImageFinder:
    """Finds image files by the paths that a table names.

    A path is absolute, or relative to the folder of the table. A path that leads nowhere from there, such as one of
    another machine, is looked up among all images below this folder by its end, such as `shoes/1.jpg` or `1.jpg`, and
    without a suffix by its name. All folders of a relative path must fit, and at least one of an absolute path if the
    images are in several folders. Of these images, the one that shares the longest end is chosen; two are no answer.

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
        if not (parts := PurePosixPath(_normal(name)).parts):  # such as `.`
            return None
        *folders, last = parts
        is_absolute = path.is_absolute() or DRIVE.match(name) is not None
        needed = (0 if self._is_one_folder else 1) if is_absolute else len(folders)
        lengths = {path: _common_end(path.parent, folders) for path in self._by_name.get(last, [])}
        longest = max(lengths.values(), default=-1)
        found = [path for path, length in lengths.items() if length == longest >= needed]
        return found[0] if len(found) == 1 else None

    @cached_property
    def _is_one_folder(self) -> bool:
        return len({path.parent for paths in self._by_name.values() for path in paths}) == 1

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


def _common_end(folder: Path, parts: list[str]) -> int:
    """Number of the last parts that a folder and a path have in common."""
    pairs = zip(reversed(folder.parts), reversed(parts), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: _normal(pair[0]) == pair[1], pairs))


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder and of all folders below it, as absolute paths in order.

    Hidden and system folders are left out, and so are folders below that a command of this project wrote.

    Args:
        folder: Existing folder.

    Raises:
        ValueError: The folder has too many files to be one of images.
    """
    return sorted(_walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    num_files = 0
    for parent, names, files in os.walk(folder.absolute()):
        names[:] = [name for name in names if not is_hidden(name) and not is_claimed(Path(parent, name))]
        num_files += len(files)
        if num_files > MAX_FILES:
            raise ValueError(
                f"data: there are more than {MAX_FILES:,} files below {str(folder)!r}. Move images and captions to a "
                "folder of their own."
            )
        for name in files:
            if is_image(Path(name)):
                yield Path(parent, name)
