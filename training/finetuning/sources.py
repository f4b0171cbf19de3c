"""Open the user's data, whatever their form, and find the images that they name."""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from datasets import Dataset, Image

from training.data import load_source
from training.data.sources import (
    SPLIT_FOLDERS,
    TABLES,
    check_split,
    image_roots,
    refuse_special_file,
    require_unicode,
)
from training.evaluation.sets.sources import list_images
from training.finetuning.tables import read_table
from training.utils.files import expanded, is_claimed


@dataclass(frozen=True)
class Opened:
    """The user's data as rows.

    Args:
        rows: Rows with undecoded images, or with paths of images.
        folder: Folder that relative paths of images start from; None if the rows hold their images.
        form: Form of the data, such as `CSV file in UTF-8`.
        roots: Folders in which the rows may name images; None for images that were listed here, not named by others.
    """

    rows: Dataset
    folder: Path | None
    form: str
    roots: tuple[Path, ...] | None


def open_data(
    data: str, split: str = "train", subset: str | None = None, needs_captions: bool = True
) -> Opened:
    """Open the user's data, in any form that the option `data` of `training/finetune.py` accepts.

    Raises:
        ValueError: There is nothing of a known form, or a folder of images lacks captions and `needs_captions`.
    """
    path = expanded(data)
    if path.is_dir():
        return _open_folder(path, split, needs_captions)
    refuse_special_file(data, "data")
    if path.suffix.lower() in TABLES:
        if not path.is_file():
            raise ValueError(f"data: there is no file {data!r}. Check the path.")
        return _open_table(path, split)
    if path.suffix.lower() in (".xlsx", ".xls", ".txt", ".json", ".zip"):
        raise ValueError(
            f"data: {data!r} is not a table that can be read. Save it as CSV with one row per image: path, caption."
        )
    check_split(data, split, "split", subset)
    rows = _undecoded(load_source(data, split, subset))
    form = f"{len(rows):,} rows of {path.name}"
    if path.is_file():
        return Opened(rows, path.parent, form, (path.parent.resolve(),))
    return Opened(rows, None, form, image_roots(data))


def _open_table(path: Path, split: str) -> Opened:
    _refuse_split(split, path)
    columns, encoding = read_table(path)
    form = f"{path.suffix[1:].upper()} file in {encoding}"
    return Opened(Dataset.from_dict(columns), path.parent, form, (path.parent.resolve(),))


def _open_folder(folder: Path, split: str, needs_captions: bool) -> Opened:
    """Open a table in the folder, or else images, or parquet files."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in TABLES and path.is_file())
    tables = sorted(
        path for path in found if not path.name.startswith(".")
    )  # macOS leaves `._titles.csv`
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise ValueError(
            f"data: {str(folder)!r} has several tables: {names}. Name one of them as --data."
        )
    if tables:
        return _open_table(tables[0], split)
    if images := [
        path.absolute() for path in list_images(folder) if _output_of(path, folder) is None
    ]:
        _refuse_split(split, folder)
        return _open_images(folder, images, needs_captions)
    parquet = sorted(folder.rglob("*.parquet"))
    if not parquet:
        raise ValueError(
            f"data: {str(folder)!r} has neither images nor a table. Add images in one folder per class, or a CSV file "
            "with paths and captions."
        )
    if output := next(filter(None, (_output_of(path, folder) for path in parquet)), None):
        raise ValueError(  # `datasets` would take its files for a split
            f"data: {str(folder)!r} holds {str(output)!r}, which a command of this project wrote. Move it out of the "
            f"data, or name the files: --data '{folder}/*.parquet'."
        )
    return Opened(
        _undecoded(load_source(str(folder), split)), folder, "parquet files", (folder.resolve(),)
    )


def _output_of(path: Path, folder: Path) -> Path | None:
    """The folder that holds a file and was written by a command of this project, below `folder`."""
    return next(
        (each for each in path.parents if folder in each.parents and is_claimed(each)), None
    )


def _refuse_split(split: str, path: Path):
    if split != "train":
        raise ValueError(f"split: {str(path)!r} has no splits, got {split!r}. Leave it out.")


def _open_images(folder: Path, paths: list[Path], needs_captions: bool) -> Opened:
    """Open images with a text file for each, or in class folders."""
    require_unicode(paths)
    columns: dict[str, Sequence[str | None]] = {"file": list(map(str, paths))}
    classes = [path.relative_to(folder.absolute()).parts[0] for path in paths]
    beside = [path for path in paths if path.parent == folder.absolute()]
    splits = {name for name in set(classes) if name.lower() in chain(*SPLIT_FOLDERS)}
    texts, form = [_text_of(path.with_suffix(".txt")) for path in paths], "images"
    if sum(text is not None for text in texts) > len(texts) / 2:
        columns, form = columns | {"caption": texts}, "images with text files"
    elif splits and splits == set(classes):
        raise ValueError(
            f"data: the folders of {str(folder)!r} are splits, not classes: {', '.join(sorted(splits))}. Name one of "
            "them as --data."
        )
    elif not beside and len(set(classes)) > 1:
        columns, form = (
            columns | {"label": [name.replace("_", " ") for name in classes]},
            "class folders",
        )
    elif needs_captions and 0 < len(beside) < len(paths):
        raise ValueError(
            f"data: {beside[0].name!r} is beside the class folders of {str(folder)!r}. Move it into one."
        )
    elif needs_captions:
        raise ValueError(
            f"data: {str(folder)!r} has {len(paths)} images of one class only, and no captions. Add a folder for each "
            "class, a text file for each image (1.txt for 1.jpg), or a CSV file with paths and captions."
        )
    return Opened(Dataset.from_dict(columns), folder, form, roots=None)


def _text_of(path: Path) -> str | None:
    """Content of the text file of an image in one line; None without one.

    Raises:
        ValueError: It is not UTF-8. A short text is valid in several encodings: 猫 in GBK is è in UTF-8.
    """
    try:
        return (
            " ".join(path.read_text(encoding="utf-8-sig").split()) or None
            if path.is_file()
            else None
        )
    except UnicodeDecodeError as error:
        raise ValueError(
            f"data: {str(path)!r} is not UTF-8. Save it as UTF-8, or write captions to a CSV."
        ) from error


def _undecoded(rows: Dataset) -> Dataset:
    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
    return rows


def find_image(folder: Path | None, name: str) -> Path | None:
    """Absolute path of an image file that a table names, relative to a folder or the current one; None without one."""
    name = name.strip().removeprefix("file://").replace("\\", "/")
    if not name or "\0" in name:
        return None
    for form in (
        name,
        unicodedata.normalize("NFC", name),
        unicodedata.normalize("NFD", name),
    ):  # macOS writes NFD
        path = (folder or Path()) / os.path.expanduser(form)
        try:
            if path.is_file():
                return path.absolute()
        except OSError:  # a caption is too long for a path
            return None
    return None
