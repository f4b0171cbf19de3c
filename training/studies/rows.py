"""Rows of the data that studies of training runs train on or measure."""

from collections.abc import Sequence

from datasets import Dataset, Image

from training.data import evenly_spaced_rows, load_source, require_columns
from training.text.writing_systems import LANGUAGES

CAPTIONED = ("image", *LANGUAGES)  # columns of images with captions in both languages


def open_rows(source: str, columns: Sequence[str], field: str, number: int | None = None) -> Dataset:
    """Open a source with these columns alone; images are not decoded.

    Args:
        source: Any source that `load_source` accepts.
        columns: Its columns, `image` among them.
        field: Option that names the source, for messages.
        number: Largest number of rows, evenly spaced. Default: all.

    Raises:
        ValueError: The source cannot be opened, or a column is missing.
    """
    rows = load_source(source, field=field)
    rows = require_columns(rows, columns, source, "Name other data.", field=field)
    rows = rows.select_columns(list(columns)).cast_column("image", Image(decode=False))
    return rows if number is None else rows.select(evenly_spaced_rows(len(rows), number))
