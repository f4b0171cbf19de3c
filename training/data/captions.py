"""The usable captions of one row, and of all rows that can be looked up, in memory-mapped tables."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
from datasets import Dataset

from training.data.batch import text_id, usable_captions
from training.data.skips import SkipReport, StreamSkipReport
from training.utils.keys import Digest

ROWS_AT_ONCE = 4096


class CaptionTable:
    """All captions of a mixture. Iterate over it for the different ones, in the order of their numbers.

    Only 16 bytes for each different caption stay in memory: its id, and the first row that has it.

    Args:
        tables: Rows of each source.
        columns: Caption columns of each source, by language.
        check_scripts: Whether captions without a letter of their language's script are not usable.
        skipped: Report that counts rows without a usable caption, and captions that are not usable.

    Raises:
        ValueError: A caption is not UTF-8.
        SkipError: Too many rows have no usable caption.
    """

    def __init__(
        self,
        tables: Sequence[Dataset],
        columns: Sequence[Mapping[str, str]],
        check_scripts: bool,
        skipped: SkipReport,
    ):
        self.columns = columns
        self.check_scripts = check_scripts
        self.tables = [
            table.select_columns(list(dict.fromkeys(by_language.values()))).with_format("arrow")[:]
            for table, by_language in zip(tables, columns, strict=True)
        ]
        self.starts = np.cumsum([0, *map(len, tables)])  # (sources + 1,) first row of each source
        ids = array("q")
        rows = array("q")
        for source, (start, stop) in enumerate(pairwise(self.starts.tolist())):
            for first in range(start, stop, ROWS_AT_ONCE):
                table = self._cells(source, first, min(first + ROWS_AT_ONCE, stop))
                for row, cells in enumerate(table, first):
                    captions, causes = read_captions(cells, check_scripts, skipped)
                    if not captions:
                        skipped.add(row, causes[0])
                    for text in chain.from_iterable(captions.values()):
                        ids.append(text_id(text))
                        rows.append(row)
        self.ids, index = np.unique(np.array(ids, np.int64), return_index=True)
        self.first_rows = np.array(rows, np.int64)[index]

    def _cells(self, source: int, start: int, stop: int) -> list[dict[str, Any]]:
        """Caption cells of consecutive rows of a source, by language."""
        columns = self.columns[source]
        offset = start - int(self.starts[source])
        try:
            rows = self.tables[source].slice(offset, stop - start).to_pylist()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"data: a caption in rows {start} to {stop - 1} of the columns {', '.join(columns.values())} is not "
                f"UTF-8 ({error}). Fix or remove its row."
            ) from error
        return [{language: row[column] for language, column in columns.items()} for row in rows]

    def read(self, row: int) -> dict[str, list[str]]:
        """Usable captions of a row by language."""
        source = int(np.searchsorted(self.starts, row, side="right")) - 1
        (cells,) = self._cells(source, row, row + 1)
        return read_captions(cells, self.check_scripts)[0]

    def number_of(self, text: str) -> int:
        """Number of a caption among the different ones, the same on all processes."""
        return int(np.searchsorted(self.ids, text_id(text)))

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        for number, row in zip(self.ids, self.first_rows.tolist(), strict=True):
            texts = chain.from_iterable(self.read(row).values())
            yield next(text for text in texts if text_id(text) == number)

    def digest(self) -> str:
        """Digest of all different captions."""
        return Digest().add(self.ids).hex()


def read_captions(
    cells: Mapping[str, Any],
    check_scripts: bool,
    skipped: SkipReport | StreamSkipReport | None = None,
) -> tuple[dict[str, list[str]], list[str]]:
    """Read the captions of a row.

    Args:
        cells: Caption cell of each language.
        check_scripts: Whether captions without a letter of their language's script are not usable.
        skipped: Report that counts them; None counts none.

    Returns:
        Usable captions by language, and the cause of each other one.
    """
    captions: dict[str, list[str]] = {}
    all_causes: list[str] = []
    for language, cell in cells.items():
        texts, causes = usable_captions(cell, language if check_scripts else None)
        if skipped is not None:
            skipped.add_captions(language, len(texts), causes)
        all_causes += causes
        if texts:
            captions[language] = texts
    return captions, all_causes
