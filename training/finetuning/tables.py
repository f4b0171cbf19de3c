"""CSV, TSV and JSON Lines files as people export them: any usual encoding and separator, with or without a header."""

import codecs
import csv
import io
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import category

from training.evaluation.sets.sources import IMAGE_SUFFIXES

SEPARATORS = ",;\t|"
PROBED_ROWS = 20  # from which the separator is found
MAX_DAMAGED_SHARE = 0.1  # of the characters beyond ASCII, in a text that is meant to be UTF-8
ENCODINGS = {
    "utf-8-sig": "UTF-8",
    "utf-16": "UTF-16",
    "gb18030": "GB 18030",
    "cp950": "Big5",
    "cp1252": "Windows-1252",
}
# as databases, pandas, Python and Excel write a missing cell; in lower case, `none` and `n/a` are names of classes
MISSING = frozenset({"NULL", "nan", "NaN", "None", "N/A", "#N/A"})
BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")


@dataclass(frozen=True)
class Table:
    """Content of a table.

    Args:
        columns: Cells by name of the column, all columns of the same length; None for a missing cell.
        encoding: Encoding of the file.
        notes: Sentences about what was repaired.
    """

    columns: dict[str, list[Any]]
    encoding: str
    notes: list[str]


def read_table(path: Path) -> Table:
    """Read a table.

    Args:
        path: CSV, TSV or JSON Lines file.

    Raises:
        ValueError: The file is empty, in another encoding or damaged.
    """
    content = path.read_bytes()
    encoding = find_encoding(content, path)
    text = content.decode(encoding)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return Table(_read_json_lines(text, path), ENCODINGS[encoding], [])
    columns, notes = _read_csv(text, path)
    return Table(columns, ENCODINGS[encoding], notes)


def find_encoding(content: bytes, path: Path) -> str:
    """Encoding of a text: UTF-8, UTF-16 with a byte order mark, GB 18030, which includes GBK, Big5 or Windows-1252.

    Args:
        content: Bytes of the whole file.
        path: Path of the file, for the error message.

    Raises:
        ValueError: The text is in none of these encodings.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    text = content.decode("utf-8-sig", "replace")
    num_damaged = text.count("\ufffd") - content.count("\ufffd".encode())
    if not num_damaged:
        return "utf-8-sig"
    if num_damaged < MAX_DAMAGED_SHARE * sum(not character.isascii() for character in text):
        raise ValueError(
            f"data: {str(path)!r} is UTF-8 with {num_damaged} damaged characters, the first in line "
            f"{text.partition(chr(0xFFFD))[0].count(chr(10)) + 1}. Correct them, and save the file again."
        )
    if _is_big5(content):
        return "cp950"
    # a Chinese character is mostly two such bytes, and has others beside it; an accent or a curly quote is one byte
    runs = BEYOND_ASCII.findall(content)
    encoding = "cp1252" if sum(len(run) == 1 for run in runs) > len(runs) / 2 else "gb18030"
    try:
        content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"data: {str(path)!r} is neither UTF-8 nor GBK (GB 18030), Big5 or Windows-1252. Save it as UTF-8 again."
        ) from error
    return encoding


def _is_big5(content: bytes) -> bool:
    """Whether a text is in Big5. As GB 18030 it has characters for private use, which a text in Chinese has not."""
    try:
        content.decode("cp950")
    except UnicodeDecodeError:
        return False
    return any(category(character) == "Co" for character in content.decode("gb18030", "replace"))


def _read_csv(text: str, path: Path) -> tuple[dict[str, list[Any]], list[str]]:
    separator = "\t" if path.suffix.lower() == ".tsv" else _separator(text)
    lines, notes = _split_lines(text, separator, path)
    if not lines:
        raise ValueError(f"data: {str(path)!r} is empty. Add one row per image: its path and its caption.")
    header = [name.strip() for name in lines[0]]
    if any(_is_image_name(name) for name in header):
        header = [f"column {number}" for number in range(1, len(header) + 1)]
        notes.append("The file has no header.")
    else:
        lines = lines[1:]
    if len(header) < 2:
        hint = next((f" Separate them by ',', and not by {each!r}." for each in "，；、" if each in header[0]), "")
        raise ValueError(
            f"data: {str(path)!r} has one column, {header[0]!r}. It needs the paths of the images and their captions."
            + hint
        )
    if not lines:
        raise ValueError(f"data: {str(path)!r} has a header and no rows. Add one row per image.")
    num_long = sum(len(line) > len(header) for line in lines)
    if num_long:
        notes.append(f"{num_long} rows have more cells than the header; the last ones were joined.")
    rows = [_fit(line, len(header), separator) for line in lines]
    names = _unique(header)
    return {name: [row[number] for row in rows] for number, name in enumerate(names)}, notes


def _split_lines(text: str, separator: str, path: Path) -> tuple[list[list[str]], list[str]]:
    """Lines of a table that are not empty, and notes. Quotes that swallow other rows are read as plain characters."""

    def read(quotes: bool) -> list[list[str]]:
        reader = csv.reader(io.StringIO(text), delimiter=separator, quotechar='"' if quotes else None)
        try:
            return [line for line in reader if any(map(str.strip, line))]
        except csv.Error as error:
            raise ValueError(f"data: {str(path)!r} is not a table ({error}). Export it again as CSV.") from error

    lines = read(quotes=True)
    swallowing = [cell for line in lines for cell in line if _holds_a_row(cell, separator)]
    if not swallowing:
        return lines, []
    plain = read(quotes=False)
    if len({len(line) for line in plain}) == 1:
        return plain, ["A quotation mark is not closed, so quotation marks are part of the captions."]
    start = swallowing[0].splitlines()[0]
    raise ValueError(
        f"data: in {str(path)!r}, the quotation mark before {start!r} is not closed, or closed in a later row. "
        "Close it, or remove it."
    )


def _holds_a_row(cell: str, separator: str) -> bool:
    return any(_is_image_name(part) for line in cell.splitlines()[1:] for part in line.split(separator))


def _separator(text: str) -> str:
    """The separator that splits the first lines into most cells each; a comma if none splits all of them."""
    first = "\n".join(text.splitlines()[:PROBED_ROWS])

    def least_cells(separator: str) -> int:
        return min((len(line) for line in csv.reader(io.StringIO(first), delimiter=separator) if line), default=0)

    return max(SEPARATORS, key=least_cells)


def _fit(line: list[str], width: int, separator: str) -> list[str | None]:
    """A line with exactly `width` cells. A caption that is not in quotes may contain the separator."""
    cells: list[str | None] = [*line[: width - 1], separator.join(line[width - 1 :])]
    return [None if cell is None or _is_missing(cell) else cell for cell in cells] + [None] * (width - len(cells))


def _is_missing(cell: str) -> bool:
    return not cell or cell.strip() in MISSING


def _is_image_name(cell: str) -> bool:
    return Path(cell.strip()).suffix.lower() in IMAGE_SUFFIXES


def _unique(header: list[str]) -> list[str]:
    """Names of the columns: a number for a missing one, and a suffix for a repeated one."""
    names: list[str] = []
    for number, name in enumerate(header, 1):
        name = name or f"column {number}"
        names.append(name if name not in names else f"{name} {number}")
    return names


def _read_json_lines(text: str, path: Path) -> dict[str, list[Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(io.StringIO(text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"data: line {number} of {str(path)!r} is not JSON ({error}). Fix or remove it."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(f"data: line {number} of {str(path)!r} is not a JSON object. Write {{field: value}}.")
        rows.append(row)
    if not rows:
        raise ValueError(f"data: {str(path)!r} is empty. Add one line per image: its path and its caption.")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _of_one_type([row.get(name) for row in rows]) for name in names}


def _of_one_type(cells: list[Any]) -> list[Any]:
    """Cells as strings, or all as lists of strings if one of them is a list."""

    def texts(cell: Any) -> list[str]:
        items: Iterable[Any] = cell if isinstance(cell, list) else [cell]
        present = [item for item in items if not _is_nothing(item)]
        return [item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in present]

    if any(isinstance(cell, list) for cell in cells):
        return [texts(cell) for cell in cells]
    return [next(iter(texts(cell)), None) for cell in cells]


def _is_nothing(item: Any) -> bool:
    """Whether a JSON value is missing: null, or NaN, as Python writes a missing number."""
    return item is None or (isinstance(item, float) and math.isnan(item))
