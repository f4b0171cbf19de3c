"""Open the user's data, whatever their form, and find the images that they name."""

import codecs
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from datasets import Dataset, Image

from modeling_dcclip.search.files import is_hidden
from training.data import load_source
from training.data.sources import TABLES, check_split, image_roots, require_unicode
from training.evaluation.sets.sources import SPLIT_FOLDERS, is_image, list_folders
from training.finetuning.tables import decode, read_table
from training.utils.files import is_claimed

MOST = 0.5  # share of the images of a folder that have captions
SEPARATOR = b"\n--8<--\n"  # between text files that are decoded together
BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
MAX_FILES = 500_000  # files that are looked at below a folder


@dataclass(frozen=True)
class Opened:
    """The user's data as rows.

    Args:
        rows: Rows with undecoded images, or with paths of images.
        finder: Finder of the images that the rows name by path; None if the rows hold their images.
        form: Form of the data, such as `CSV file in UTF-8`.
        roots: Folders in which the rows may name images; None for images that were listed here, not named by others.
        notes: Sentences about what was repaired or left out.
    """

    rows: Dataset
    finder: "ImageFinder | None"
    form: str
    roots: tuple[Path, ...] | None
    notes: list[str] = field(default_factory=list)


def open_data(data: str, split: str = "train", subset: str | None = None, needs_captions: bool = True) -> Opened:
    """Open the user's data.

    Args:
        data: Any form that the option `data` of `training/finetune.py` accepts.
        split: Split to load, if the source has several.
        subset: Configuration of a Hub data set that has several.
        needs_captions: Whether a folder of images without captions is refused.

    Raises:
        ValueError: There is nothing of a known form at this location.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        return _open_folder(path, split, needs_captions)
    if path.exists() and not path.is_file():
        raise ValueError(f"data: {data!r} is neither a file nor a folder. Copy its content to a file.")
    if path.suffix.lower() in TABLES:
        if not path.is_file():
            raise ValueError(f"data: there is no file {data!r}. Check the path.")
        _refuse_split(split, path)
        return _open_table(path)
    if path.suffix.lower() in (".xlsx", ".xls", ".txt", ".json", ".zip"):
        raise ValueError(
            f"data: {data!r} is not a table that can be read. Save it as CSV with one row per image: path, caption."
        )
    check_split(data, split, "split")
    rows = load_source(data, split, subset)
    folder = path.parent if path.is_file() else None
    finder = ImageFinder(folder) if folder is not None else None
    roots = image_roots(data) if folder is None else (folder.resolve(),)
    return Opened(_undecoded(rows), finder, f"{len(rows):,} rows of {path.name}", roots)


def _open_table(path: Path) -> Opened:
    columns, encoding, notes = read_table(path)
    form = f"{path.suffix[1:].upper()} file in {encoding}"
    return Opened(Dataset.from_dict(columns), ImageFinder(path.parent), form, (path.parent.resolve(),), notes)


def _open_folder(folder: Path, split: str, needs_captions: bool) -> Opened:
    """Open a table in the folder, or parquet files and tar shards, or images in class folders or with captions."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in TABLES and path.is_file())
    tables = sorted(path for path in found if not path.name.startswith("."))  # macOS leaves `._titles.csv`
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise ValueError(f"data: {str(folder)!r} has several tables: {names}. Name one of them as --data.")
    shards = sorted(map(str, folder.glob("*.tar")))
    if tables or shards:
        _refuse_split(split, folder)
    if tables:
        return _open_table(tables[0])
    if shards:
        return Opened(_undecoded(load_source(shards)), None, f"{len(shards)} tar shards", ())
    parquet = sorted(folder.rglob("*.parquet"))
    if not parquet or list_images(folder):
        opened = _open_images(folder, split, needs_captions)
        own = [path for path in parquet if not any(is_claimed(parent) for parent in path.parents)]
        if own:
            opened.notes.append(f"The folder has images, so its parquet files are not read, such as {own[0]}.")
        return opened
    inner = (parent for path in parquet for parent in path.parents if folder in parent.parents)
    outputs = [path for path in inner if is_claimed(path)]
    if outputs:  # `datasets` would take its files for a split
        raise ValueError(
            f"data: {str(folder)!r} holds {str(outputs[0])!r}, which a command of this project wrote. Move it out of "
            f"the data, or name the files: --data '{folder}/*.parquet'."
        )
    rows = _undecoded(load_source(str(folder), split))
    return Opened(rows, ImageFinder(folder), "parquet files", (folder.resolve(),))


def _refuse_split(split: str, path: Path):
    if split != SPLIT_FOLDERS[0][0]:
        raise ValueError(f"split: {str(path)!r} has no splits, got {split!r}. Leave it out.")


def _open_images(folder: Path, split: str, needs_captions: bool) -> Opened:
    """Open a folder of images, or the folder of the split in it if it has one folder for each split."""
    inner = {path.name.lower(): path for path in list_folders(folder)}
    if not inner.keys() & set(SPLIT_FOLDERS[0]) or not inner.keys() <= set(chain(*SPLIT_FOLDERS)):
        _refuse_split(split, folder)
        return _open_listed(folder, needs_captions)
    names = next((names for names in SPLIT_FOLDERS if split in names), (split,))
    if (chosen := next((name for name in (split, *names) if name in inner), None)) is None:
        raise ValueError(
            f"split: {str(folder)!r} has no folder {split!r}, only {', '.join(inner)}. Name one of these."
        )
    opened = _open_listed(inner[chosen], needs_captions)
    opened.notes.append(f"Only the folder {chosen!r} is used; the other splits stay untouched.")
    return opened


def _open_listed(folder: Path, needs_captions: bool) -> Opened:
    """Open a folder of images: with a text file for each, or in class folders."""
    paths = list_images(folder)
    require_unicode(paths)
    if not paths:
        raise ValueError(
            f"data: {str(folder)!r} has neither images nor a CSV file. Add images in one folder per class, or a CSV "
            "file with paths and captions."
        )
    columns: dict[str, Sequence[str | None]] = {"file": list(map(str, paths))}
    classes = [path.relative_to(folder.absolute()).parts[0].replace("_", " ") for path in paths]
    texts, form = _texts_beside(paths), "images"
    if sum(text is not None for text in texts) >= MOST * len(texts):
        columns, form = columns | {"caption": texts}, "images with text files"
    elif all(path.parent != folder.absolute() for path in paths) and len(set(classes)) > 1:
        columns, form = columns | {"label": classes}, "class folders"
    elif needs_captions:
        raise ValueError(
            f"data: {str(folder)!r} has {len(paths)} images of one class only, and no captions. Add a folder for each "
            "class, a text file for each image (1.txt for 1.jpg), or a CSV file with paths and captions."
        )
    return Opened(Dataset.from_dict(columns), ImageFinder(folder), form, roots=None)


def _texts_beside(images: Sequence[Path]) -> list[str | None]:
    """Content of the text files of images, such as 1.txt for 1.jpg.

    They are decoded together, because a short text is valid in several encodings: 猫 in GBK is è in UTF-8.
    """
    paths = [image.with_suffix(".txt") for image in images]
    contents = [path.read_bytes() if path.is_file() else b"" for path in paths]
    try:
        texts = decode(SEPARATOR.join(contents), paths[0].parent)[0].split(SEPARATOR.decode())
    except ValueError:
        texts = []
    if len(texts) != len(paths) or any(content.startswith(BOMS) for content in contents):  # each has its encoding
        texts = [decode(content, path)[0] for path, content in zip(paths, contents, strict=True)]
    return [" ".join(text.split()) or None for text in texts]


def _undecoded(rows: Dataset) -> Dataset:
    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
    return rows


class ImageFinder:
    """Finds image files by the paths that a table names: absolute, or relative to the folder of the table.

    Args:
        folder: Folder of the table.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, name: str) -> Path | None:
        """Absolute path of an image file; None if there is none."""
        name = name.strip().removeprefix("file://").replace("\\", "/")
        if not name or "\0" in name:
            return None
        for form in ("NFC", "NFD"):  # macOS writes an accent as a character of its own
            path = self.folder / os.path.expanduser(unicodedata.normalize(form, name))
            try:
                if path.is_file():
                    return path.absolute()
            except OSError:  # a caption is too long for a path
                return None
        return None


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder and of all folders below it, as absolute paths in order.

    Hidden and system folders are left out, and so are folders that a command of this project wrote.

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
