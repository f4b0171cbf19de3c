"""Open the user's data, whatever their form."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from datasets import Dataset, Image

from training.data import load_source
from training.data.sources import TABLES, check_split, image_roots, require_unicode
from training.evaluation.sets.sources import SPLIT_FOLDERS, list_folders
from training.finetuning.columns import language_of
from training.finetuning.images import ImageFinder, list_images
from training.finetuning.tables import find_encoding, read_table
from training.utils.files import is_claimed

# file names that cameras, phones, chat programs and screenshots give: a word, and a number, time, copy or app after it
CAMERA_WORD = (
    r"(img(_e)?|mvimg|dscn?|dscf|pxl|dji|gopr|image|photo|screen ?shot|mmexport|wx_camera|we ?chat ?(img|image)?|"
    r"微信(图片|截图)|企业微信截图|qq(图片|截图)|图片|图像|照片|扫描|下载|未命名|无标题|截屏|屏幕(截图|快照)|截图|"
    r"圖片|圖像|掃描|下載|無標題|截圖|螢幕(截圖|快照|擷取畫面)|p(?=\d{7}$))"
)
COUNTED = r"([\s\d_.()~-]|[ap]m|at|wa(?=\d)|burst|上午|下午|copy|副本|(com)?(\.[a-z]\w*)+)*"
CAMERA_NAME = re.compile(rf"[\s_-]*({CAMERA_WORD}{COUNTED}|{CAMERA_WORD}?[\s_-]*(?=[\da-f-]*\d)[\da-f-]*)", re.I)
MOST = 0.5  # share of the images of a folder that have captions


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
    finder: ImageFinder | None
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
    if path.suffix.lower() in TABLES:
        if not path.is_file():
            raise ValueError(f"data: there is no file {data!r}. Check the path.")
        _refuse_split(split, path)
        return _open_table(path)
    if path.suffix.lower() in (".xlsx", ".xls", ".txt", ".json", ".zip"):
        raise ValueError(
            f"data: {data!r} is no table that can be read. Save it as CSV with one row per image: path, caption."
        )
    check_split(data, split, "split")
    rows = load_source(data, split, subset)
    folder = path.parent if path.is_file() else None
    finder = ImageFinder(folder) if folder is not None else None
    roots = image_roots(data) if folder is None else (folder.resolve(),)
    return Opened(_undecoded(rows), finder, f"{len(rows):,} rows of {path.name}", roots)


def _open_table(path: Path) -> Opened:
    table = read_table(path)
    kind = f"{path.suffix[1:].upper()} file"
    rows, roots = Dataset.from_dict(table.columns), (path.parent.resolve(),)
    return Opened(rows, ImageFinder(path.parent), f"{kind} in {table.encoding}", roots, table.notes)


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
    outputs = [str(parent) for path in parquet for parent in path.parents if _is_inner_output(parent, folder)]
    if not parquet or list_images(folder):
        return _open_images_beside([] if outputs else parquet, folder, split, needs_captions)
    if outputs:  # `datasets` would take its files for those of a split
        raise ValueError(
            f"data: {str(folder)!r} holds {outputs[0]!r}, which a command of this project wrote. Move it out of the "
            f"data, or name the files: --data '{folder}/*.parquet'."
        )
    rows, roots = _undecoded(load_source(str(folder), split)), (folder.resolve(),)
    return Opened(rows, ImageFinder(folder), "parquet files", roots)


def _is_inner_output(path: Path, folder: Path) -> bool:
    return folder in path.parents and is_claimed(path)


def _refuse_split(split: str, path: Path):
    if split != SPLIT_FOLDERS[0][0]:
        raise ValueError(f"split: {str(path)!r} has no splits, got {split!r}. Leave it out.")


def _open_images_beside(parquet: Sequence[Path], folder: Path, split: str, needs_captions: bool) -> Opened:
    """Open a folder of images, and say that the parquet files in it are not read."""
    if not parquet:
        return _open_images(folder, split, needs_captions)
    note = f"The folder has images, so its parquet files are not read. To train on these, name them: {parquet[0]}."
    try:
        opened = _open_images(folder, split, needs_captions)
    except ValueError as error:
        raise ValueError(f"{error} {note}") from error
    opened.notes.append(note)
    return opened


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
    """Open a folder of images: with text files beside them, in class folders, or named after what they show."""
    paths = list_images(folder)
    require_unicode(paths)
    if not paths:
        raise ValueError(
            f"data: {str(folder)!r} has neither images nor a CSV file. Add images in one folder per class, or a CSV "
            "file with paths and captions."
        )
    classes = [path.relative_to(folder.absolute()).parts[0].replace("_", " ") for path in paths]
    if _cover(texts := _texts_beside(paths)):
        return _images_with("caption", texts, paths, folder, "images with text files")
    if all(path.parent != folder.absolute() for path in paths) and len(set(classes)) > 1:
        return _images_with("label", classes, paths, folder, "class folders")
    if _cover(texts := [_text_of_name(path) for path in paths]):
        return _images_with("file name", texts, paths, folder, "images with file names")
    if not needs_captions:
        return Opened(Dataset.from_dict({"file": list(map(str, paths))}), ImageFinder(folder), "images", roots=None)
    raise ValueError(
        f"data: {str(folder)!r} has {len(paths)} images of one class only, and no captions. Add a folder for each "
        "class, a text file beside each image, or a CSV file with paths and captions."
    )


def _images_with(column: str, texts: Sequence[str | None], paths: list[Path], folder: Path, form: str) -> Opened:
    rows = Dataset.from_dict({"file": list(map(str, paths)), column: list(texts)})
    return Opened(rows, ImageFinder(folder), form, roots=None)


def _cover(texts: Sequence[str | None]) -> bool:
    return sum(text is not None for text in texts) >= MOST * len(texts)


def _texts_beside(images: Sequence[Path]) -> list[str | None]:
    """Content of the text files beside images, such as 1.txt beside 1.jpg.

    Their encoding is found from all of them, because a short text is valid in several: 猫 in GBK is è in UTF-8.
    """
    paths = [image.with_suffix(".txt") for image in images]
    contents = [path.read_bytes() if path.is_file() else b"" for path in paths]
    encoding = _common_encoding([content for content in contents if content], paths[0].parent)
    return [
        " ".join(content.decode(encoding or find_encoding(content, path)).split()) or None
        for path, content in zip(paths, contents, strict=True)
    ]


def _common_encoding(contents: Sequence[bytes], folder: Path) -> str | None:
    """Encoding of all texts; None if they have several, or UTF-16, where each has a byte order mark of its own."""
    try:
        encoding = find_encoding(b"\n".join(contents), folder)
    except ValueError:
        return None
    return None if encoding == "utf-16" else encoding


def _text_of_name(image: Path) -> str | None:
    """File name of an image as a caption, without a number at its end; None for the names that cameras give."""
    if CAMERA_NAME.fullmatch(image.stem):
        return None
    text = re.sub(r"[\s\d()]+$", "", image.stem.replace("_", " ").replace("-", " "))
    return text if language_of(text) else None


def _undecoded(rows: Dataset) -> Dataset:
    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
    return rows
