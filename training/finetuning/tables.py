"""Tables of paths and captions in any usual encoding, and the columns of images and captions in any rows."""

import codecs
import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import category

from datasets import ClassLabel, Dataset, Image

from training.data import evenly_spaced_rows, usable_captions
from training.evaluation.sets.sources import IMAGE_SUFFIXES
from training.text.writing_systems import LANGUAGES, script_of

MAX_PROBED = 1000  # cells from which the languages of a column are found
MAX_DAMAGED_SHARE = 0.1  # of the characters beyond ASCII, in a text that is meant to be UTF-8
PURE, PRESENT = 0.8, 0.2  # share of the captions in a language: nearly all, and enough to be a language of the column
SEPARATORS = ",;\t|"
BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")
# as databases, pandas, Python and Excel write a missing cell; in lower case, `none` and `n/a` are names of classes
MISSING = ["", "NULL", "nan", "NaN", "None", "N/A", "#N/A"]
IMAGE_NAMES = (
    "image",
    "img",
    "photo",
    "picture",
    "file",
    "filename",
    "file_name",
    "path",
    "jpg",
    "png",
    "webp",
    "图片",
)
LABEL_NAMES = ("label", "labels", "fine_label", "class", "category", "标签", "类别", "分类")
CAPTION_NAMES = (
    *("caption", "title", "标题", "標題", "text", "txt", "文本", "description", "描述", "name", "名称"),
    *LABEL_NAMES,
)
OTHER_ASIAN = frozenset({"Hiragana", "Katakana", "Hangul"})  # with Han characters among them, a text is not Chinese


def read_table(path: Path) -> tuple[dict[str, list[Any]], str, list[str]]:
    """Read a CSV, TSV or JSON Lines file.

    Args:
        path: The file.

    Returns:
        Cells by column, None for a missing cell; the encoding; sentences about what was repaired.

    Raises:
        ValueError: The file is empty, in a different encoding or damaged.
    """
    text, encoding = decode(path.read_bytes(), path)
    if not text.strip():
        raise ValueError(f"data: {str(path)!r} is empty. Add rows of paths and captions.")
    if "\0" in text:
        raise ValueError(f"data: {str(path)!r} has NUL characters, so it is not a table. Save it again as CSV.")
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _read_json_lines(text, path), encoding, []
    columns, notes = _read_csv(text, path)
    return columns, encoding, notes


def decode(content: bytes, path: Path) -> tuple[str, str]:
    """Text of a file and the name of its encoding: UTF-8, UTF-16, GB 18030 with GBK, Big5 or Windows-1252.

    Raises:
        ValueError: The content is in none of these encodings.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace"), "UTF-16"
    text = content.decode("utf-8-sig", "replace")
    num_damaged = text.count("\ufffd") - content.count("\ufffd".encode())
    if not num_damaged:
        return text, "UTF-8"
    if num_damaged < MAX_DAMAGED_SHARE * sum(not character.isascii() for character in text):
        line = text.partition("\ufffd")[0].count("\n") + 1
        raise ValueError(
            f"data: {str(path)!r} is UTF-8 with {num_damaged} damaged characters, the first in line {line}. Correct "
            "them, and save the file again."
        )
    try:
        # as GB 18030, Big5 has characters for private use, which a Chinese text does not have
        if any(category(character) == "Co" for character in content.decode("gb18030", "replace")):
            return content.decode("cp950"), "Big5"
    except UnicodeDecodeError:
        pass
    # a Chinese character is mostly two such bytes next to others; an accent or a curly quote is one byte
    runs = BEYOND_ASCII.findall(content)
    is_western = sum(len(run) == 1 for run in runs) > len(runs) / 2
    try:
        return (content.decode("cp1252"), "Windows-1252") if is_western else (content.decode("gb18030"), "GB 18030")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"data: {str(path)!r} is neither UTF-8 nor GBK (GB 18030), Big5 or Windows-1252. Save it as UTF-8."
        ) from error


def _read_json_lines(text: str, path: Path) -> dict[str, list[Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is not a character
        except (ValueError, RecursionError) as error:
            raise ValueError(f"data: line {number} of {str(path)!r} is not JSON ({error}). Correct it.") from error
        if not isinstance(row, dict):
            raise ValueError(f'data: line {number} of {str(path)!r} is not an object such as {{"file": "1.jpg"}}.')
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _json_cells([row.get(name) for row in rows]) for name in names}


def _json_cells(cells: list[Any]) -> list[Any]:
    """Cells as strings or, if one of them is a list, as lists of strings."""
    missing: list[Any] = [None, *MISSING]
    lists = [
        [str(item) for item in (cell if isinstance(cell, list) else [cell]) if item not in missing and item == item]
        for cell in cells
    ]
    return lists if any(isinstance(cell, list) for cell in cells) else [each[0] if each else None for each in lists]


def _read_csv(text: str, path: Path) -> tuple[dict[str, list[Any]], list[str]]:
    lines = text.splitlines()
    separator = "\t" if path.suffix.lower() == ".tsv" else max(SEPARATORS, key=lines[0].count)
    if separator not in lines[0]:
        raise ValueError(
            f"data: {str(path)!r} has one column, {lines[0][:80]!r}. It needs paths and captions, separated by ',' in "
            "every row."
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        rows = [row for row in reader if any(row)]
    except csv.Error as error:
        raise ValueError(
            f"data: {str(path)!r} cannot be read up to line {reader.line_num} ({error}). A quotation mark that is not "
            "closed, or a cell of more than 131,072 characters? Correct it, and save the file again."
        ) from error
    names = [name.strip() for name in rows[0]]
    names = [f"{name} {number}" if name in names[:number] else name for number, name in enumerate(names)]
    if any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names):  # the first row is not a header
        names = [f"column {number + 1}" for number in range(len(names))]
    else:
        rows = rows[1:]
    if not rows:
        raise ValueError(f"data: {str(path)!r} has a header and no rows. Add rows of paths and captions.")
    width = len(names)
    num_joined = sum(len(row) > width for row in rows)  # captions with separators and without quotation marks
    cells = [[*row[: width - 1], separator.join(row[width - 1 :])] if len(row) > width else row for row in rows]
    columns = {
        name: [None if len(row) <= number or row[number] in MISSING else row[number] for row in cells]
        for number, name in enumerate(names)
    }
    note = f"{num_joined} rows have more cells than the header; the last ones were joined."
    return columns, [note] if num_joined else []


@dataclass(frozen=True)
class Columns:
    """Columns of the user's data.

    Args:
        image: Column of the images, or of their paths.
        captions: Column of the captions by language (ISO 639-1 code). Two languages may share a column.
        are_labels: Whether the captions are class names.
    """

    image: str
    captions: dict[str, str]
    are_labels: bool

    def describe(self) -> str:
        """What is used, such as `image column: file, zh captions: title`."""
        kind = "class names" if self.are_labels else "captions"
        parts = [f"image column: {self.image}"] + ([] if self.captions else ["no captions"])
        return ", ".join([*parts, *(f"{language} {kind}: {column}" for language, column in self.captions.items())])


def language_of(text: str) -> str | None:
    """Language of a text by its script: `zh` with a Chinese character, else `en` with a Latin letter, else None."""
    scripts = {script_of(character) for character in text}
    if scripts & OTHER_ASIAN:
        return None
    return "zh" if "Han" in scripts else "en" if "Latin" in scripts else None


def find_columns(
    rows: Dataset,
    image_column: str | None = None,
    caption_columns: Mapping[str, str] | None = None,
    needs_captions: bool = True,
) -> Columns:
    """Find the columns of images and captions: the given ones, or those with a usual name.

    Args:
        rows: Rows of the user's data, with undecoded images.
        image_column: Column of the images. Default: the first that holds images, names images, or has a usual name.
        caption_columns: Caption columns by language. Default: columns named by language, such as `zh` or `title_en`,
            or else the first with a usual name, or the only other one with text.
        needs_captions: Whether data without captions are refused.

    Raises:
        ValueError: A given column does not exist or has no text in its language, or none is found.
    """
    probe = rows.select(evenly_spaced_rows(len(rows), MAX_PROBED))
    features = rows.features  # a copy for each access, which is slow for hundreds of columns
    every = _texts(probe, features)
    listed = ", ".join(rows.column_names)
    for name in (*([image_column] if image_column else []), *(caption_columns or {}).values()):
        if name not in rows.column_names:
            raise ValueError(f"data: there is no column {name!r}, only {listed}. Name one of these.")
    image = image_column or _find_image_column(features, every)
    if image is None:
        raise ValueError(
            f"data: no column has images or paths of images, only {listed}. Name the right one: --image_column COLUMN."
        )
    texts = {name: cells for name, cells in every.items() if name != image}
    captions = dict(caption_columns or {})
    if not captions:  # such as zh, en.txt or title_en
        split = [(name, re.split(r"[\W_]+", name.lower())) for name in texts if texts[name]]
        captions = {language: name for language in LANGUAGES for name, parts in split[::-1] if language in parts}
    for language, column in (caption_columns or {}).items():
        _check_captions(every[column], column, language)
    if not captions:
        named = [
            name for usual in CAPTION_NAMES for name in texts if name.lower() == usual and _languages(texts[name])
        ]
        others = [name for name in texts if _languages(texts[name])]
        if named or len(others) == 1:
            column = (named or others)[0]
            captions = dict.fromkeys(_languages(texts[column]), column)
    if not captions and needs_captions:
        raise ValueError(
            f"data: which column has the captions, of {listed}? Name it: --caption_columns.zh COLUMN, and likewise "
            "for English (en). Class numbers need a column with the names of the classes."
        )
    labels = [isinstance(features[name], ClassLabel) or name.lower() in LABEL_NAMES for name in captions.values()]
    return Columns(image, captions, bool(labels) and all(labels))


def _find_image_column(features: Mapping[str, Any], texts: Mapping[str, list[str]]) -> str | None:
    """The first column that holds images, or names image files, or has a usual name."""
    for name, feature in features.items():
        is_binary = "binary" in str(getattr(feature, "dtype", ""))
        if isinstance(feature, Image) or is_binary or (isinstance(feature, dict) and "bytes" in feature):
            return name
    for name, cells in texts.items():
        if sum(Path(cell.strip()).suffix.lower() in IMAGE_SUFFIXES for cell in cells) > len(cells) / 2:
            return name
    return next((name for name in texts if name.lower() in IMAGE_NAMES), None)


def _check_captions(texts: list[str], column: str, language: str):
    """Refuse a column that the user names for a language in which it has no caption."""
    option = f"caption_columns.{language}"
    if language not in LANGUAGES:
        raise ValueError(f"{option}: there is no such language, only {' and '.join(LANGUAGES)}. Use one of these.")
    if not any(map(language_of, texts)):
        raise ValueError(
            f"{option}: column {column!r} holds numbers or no text. Write the name of each class, or the caption, in "
            "place of its number."
        )
    if not any(language_of(text) == language for text in texts):
        raise ValueError(f"{option}: column {column!r} has no text in this language, such as {texts[0]!r}. Name a "
                         "different column or language.")  # fmt: skip


def _languages(texts: list[str]) -> list[str]:
    """Languages of at least a fifth of the texts that are not paths."""
    if any("://" in text or Path(text).suffix.lower() in IMAGE_SUFFIXES for text in texts[:20]):
        return []
    found = [language_of(text) for text in texts]
    return [language for language in LANGUAGES if texts and found.count(language) >= PRESENT * len(texts)]


def captions_of(cell: Any, language: str, exclusive: bool) -> list[str]:
    """Usable captions of a cell in one language, if `exclusive` without captions in a different script."""
    texts = dict.fromkeys(usable_captions(cell)[0])
    return [text for text in texts if not exclusive or language_of(text) == language]


def is_mixed(rows: Dataset, column: str, language: str) -> bool:
    """Whether a column has captions of several languages, so that each must be assigned by its script."""
    probe = rows.select(evenly_spaced_rows(len(rows), MAX_PROBED))
    texts = _texts(probe.select_columns(column), {column: rows.features[column]})[column]
    return sum(language_of(text) == language for text in texts) < PURE * len(texts)


def cells_of(rows: Dataset, column: str, feature: Any) -> list[Any]:
    """All cells of a column; class numbers with names as their names."""
    if isinstance(feature, ClassLabel):
        return [feature.names[number] if number is not None and number >= 0 else None for number in rows[column]]
    return list(rows[column])


def _texts(rows: Dataset, features: Mapping[str, Any]) -> dict[str, list[str]]:
    """All texts of each column; none for a column of images or numbers."""
    texts: dict[str, list[str]] = {name: [] for name in features}
    for name, feature in features.items():
        if isinstance(feature, ClassLabel):
            texts[name] = [text for text in cells_of(rows, name, feature) if text]
    inner = {name: getattr(feature, "feature", feature) for name, feature in features.items()}
    names = [name for name, feature in inner.items() if "string" in str(getattr(feature, "dtype", ""))]
    if names:
        table = rows.select_columns(names).with_format("arrow")[:]  # one access: each takes as long as all columns
        for name, column in zip(table.column_names, table.columns, strict=True):
            texts[name] = [text for cell in column.to_pylist() for text in usable_captions(cell)[0]]
    return texts
