"""Read CSV and JSON Lines in the usual encodings, and find the columns of images and captions."""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import category

from datasets import ClassLabel, Dataset, Image

from training.data import evenly_spaced_rows, usable_captions
from training.text.writing_systems import LANGUAGES, script_of

MAX_PROBED = 1000  # cells from which the languages of a column are found
MIN_SHARE = 0.2  # of the captions of a column, to be one of its languages
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
    "图片",
)
LABEL_NAMES = (
    "label",
    "labels",
    "fine_label",
    "class",
    "category",
    "标签",
    "类别",
    "分类",
    "类目",
    "品类",
)
TITLES = ("caption", "title", "标题", "標題")
CAPTION_NAMES = (
    *TITLES,
    "text",
    "txt",
    "文本",
    "description",
    "描述",
    "name",
    "名称",
    *LABEL_NAMES,
)
OTHER_ASIAN = frozenset(
    {"Hiragana", "Katakana", "Hangul"}
)  # with Han characters among them, a text is not Chinese


def read_table(path: Path) -> tuple[dict[str, list[Any]], str]:
    """Read a CSV, TSV or JSON Lines file: cells by column, None for a missing cell; and the encoding.

    Raises:
        ValueError: The file is empty, in a different encoding or damaged.
    """
    text, encoding = decode(path.read_bytes(), path)
    if not text.strip() or "\0" in text:
        raise ValueError(
            f"data: {str(path)!r} is empty or not a text file. Save it as CSV with paths and captions."
        )
    read = _read_json_lines if path.suffix.lower() in (".jsonl", ".ndjson") else _read_csv
    return read(text, path), encoding


def decode(content: bytes, path: Path) -> tuple[str, str]:
    """Text of a file and the name of its encoding: UTF-8, UTF-16, GB 18030 with GBK, Big5 or Windows-1252.

    Raises:
        ValueError: The content is in none of these encodings.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace"), "UTF-16"
    text = content.decode("utf-8-sig", "replace")
    if not (num_damaged := text.count("\ufffd") - content.count("\ufffd".encode())):
        return text, "UTF-8"
    if num_damaged < sum(not character.isascii() for character in text) / 10:
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
        return (
            (content.decode("cp1252"), "Windows-1252")
            if is_western
            else (content.decode("gb18030"), "GB 18030")
        )
    except UnicodeDecodeError as error:
        raise ValueError(
            f"data: {str(path)!r} is in an unknown encoding. Save it as UTF-8."
        ) from error


def _read_json_lines(text: str, path: Path) -> dict[str, list[Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # U+2028 may be in a text
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is not a character
            rows.append(dict(row))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(
                f'data: line {number} of {str(path)!r} is not an object such as {{"file": "1.jpg"}} ({error}).'
            ) from error
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _json_cells([row.get(name) for row in rows]) for name in names}


def _json_cells(cells: list[Any]) -> list[Any]:
    """Cells as strings or, if one of them is a list, as lists of strings. An object is a missing cell."""
    missing: list[Any] = [None, *MISSING]
    lists = [
        [
            str(item)
            for item in (cell if isinstance(cell, list) else [cell])
            if item not in missing and item == item and not isinstance(item, dict)
        ]
        for cell in cells
    ]
    return (
        lists
        if any(isinstance(cell, list) for cell in cells)
        else [each[0] if each else None for each in lists]
    )


def _read_csv(text: str, path: Path) -> dict[str, list[Any]]:
    header = text.lstrip("\r\n").splitlines()[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(SEPARATORS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[list[str]] = []
    try:
        for row in filter(any, reader):
            rows.append(row)
            if len(row) > len(rows[0]):
                raise csv.Error(f"{len(row)} cells, and {len(rows[0])} columns")
    except csv.Error as error:
        raise ValueError(
            f"data: {str(path)!r} cannot be read in line {reader.line_num} ({error}). Put captions with quotation "
            f"marks or {separator!r} in quotation marks, and save the file again."
        ) from error
    names = [name.strip() for row in rows[:1] for name in row]
    if len(names) < 2 or len(set(names)) < len(names) or len(rows) < 2:
        raise ValueError(
            f"data: {str(path)!r} has the header {header[:80]!r} and {len(rows[1:])} rows. It needs different columns "
            f"for paths and captions, separated by {separator!r} in every row."
        )
    return {
        name: [
            None if len(row) <= number or row[number] in MISSING else row[number]
            for row in rows[1:]
        ]
        for number, name in enumerate(names)
    }


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
        return ", ".join(
            [
                *parts,
                *(f"{language} {kind}: {column}" for language, column in self.captions.items()),
            ]
        )


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
        image_column: Column of the images. Default: the first that holds images, or else has a usual name.
        caption_columns: Caption columns by language. Default: columns named by language, such as `zh` or `title_en`,
            or else the first with a usual name, in the languages of its texts.
        needs_captions: Whether data without captions are refused.

    Raises:
        ValueError: A given column does not exist or has no text in its language, or none is found.
    """
    features = rows.features  # a copy for each access, which is slow for hundreds of columns
    listed = ", ".join(features)
    for name in (*([image_column] if image_column else []), *(caption_columns or {}).values()):
        if name not in features:
            raise ValueError(
                f"data: there is no column {name!r}, only {listed}. Name one of these."
            )
    image = image_column or next(
        (name for name, feature in features.items() if _holds_images(feature)), None
    )
    image = image or next(_usual(features, IMAGE_NAMES), None)
    if image is None:
        raise ValueError(
            f"data: no column has images or paths of images, only {listed}. Name the right one: --image_column COLUMN."
        )
    captions = dict(caption_columns or {})
    for language, column in captions.items():
        if language not in LANGUAGES or language not in map(
            language_of, _probe(rows, column, features)
        ):
            raise ValueError(
                f"caption_columns.{language}: column {column!r} has no text in this language. Name a different "
                f"column, or a language of {' and '.join(LANGUAGES)}; write class names in place of their numbers."
            )
    for name in () if captions else features:  # such as zh, en.txt or title_en
        parts = [
            each
            for each in LANGUAGES
            if each in re.split(r"[\W_]+", name.lower()) and each not in captions
        ]
        if parts and name != image and any(_probe(rows, name, features)):
            captions[parts[0]] = name
    for column in () if caption_columns else _usual(features, CAPTION_NAMES):
        if (
            captions and column.lower() not in TITLES
        ):  # a description or a class is not the other language's title
            break
        found = [language_of(text) for text in _probe(rows, column, features)]
        if languages := [
            each for each in LANGUAGES if found and found.count(each) >= MIN_SHARE * len(found)
        ]:
            captions = dict.fromkeys(languages, column) | captions
    if not captions and needs_captions:
        raise ValueError(
            f"data: which column has the captions, of {listed}? Name it: --caption_columns.zh COLUMN, and in the same "
            "way for English (en). Class numbers need a column with the names of the classes."
        )
    labels = [
        isinstance(features[name], ClassLabel) or name.lower() in LABEL_NAMES
        for name in captions.values()
    ]
    return Columns(image, captions, bool(labels) and all(labels))


def _holds_images(feature: Any) -> bool:
    is_binary = "binary" in str(getattr(feature, "dtype", ""))
    return (
        isinstance(feature, Image)
        or is_binary
        or (isinstance(feature, dict) and "bytes" in feature)
    )


def _usual(columns: Iterable[str], usual: Iterable[str]) -> Iterator[str]:
    """Columns with a usual name, in the order of the usual names."""
    return (name for each in usual for name in columns if name.lower() == each)


def _probe(rows: Dataset, column: str, features: Mapping[str, Any]) -> list[str]:
    """Texts of evenly spaced cells of a column."""
    probe = rows.select(evenly_spaced_rows(len(rows), MAX_PROBED)).select_columns(column)
    return [
        text
        for cell in cells_of(probe, column, features[column])
        for text in usable_captions(cell)[0]
    ]


def captions_of(cell: Any, language: str, exclusive: bool) -> list[str]:
    """Usable captions of a cell in one language, if `exclusive` without captions in a different script."""
    texts = dict.fromkeys(usable_captions(cell)[0])
    return [text for text in texts if not exclusive or language_of(text) == language]


def cells_of(rows: Dataset, column: str, feature: Any) -> list[Any]:
    """All cells of a column; class numbers with names as their names."""
    try:
        cells = list(rows[column])
    except UnicodeDecodeError as error:  # parquet has a flag for text, and no check
        raise ValueError(
            f"data: column {column!r} has damaged text ({error}). Write the file again."
        ) from error
    if isinstance(feature, ClassLabel):
        return [
            feature.names[number] if number is not None and number >= 0 else None
            for number in cells
        ]
    return cells
