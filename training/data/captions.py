"""The captions of rows that can be looked up, read from memory-mapped tables when a batch needs them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from training.data.batch import text_id, usable_captions
from training.data.skips import SkipReport
from training.utils.keys import Digest

ROWS_AT_ONCE = 4096


class CaptionTable:
    """All captions of a mixture. Iterate over it for the different ones, in the order of their numbers.

    Only 16 bytes for each different caption stay in memory: its id, and the first row that has it.

    Args:
        tables: Rows of each source.
        columns: Caption columns of each source, by language.
        check_scripts: Whether captions without a letter of their language's script are not usable.
        skipped: Report to which rows without a usable caption, and captions that are not usable, are added.

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
        self.columns, self.check_scripts = columns, check_scripts
        self.tables = [
            table.select_columns(list(dict.fromkeys(own.values()))).with_format("arrow")[:]
            for table, own in zip(tables, columns, strict=True)
        ]
        self.starts = np.cumsum([0, *map(len, tables)])  # (sources + 1,) first row of each source
        ids = [np.empty(0, np.int64)]
        rows = [np.empty(0, np.int64)]
        for source, (start, stop) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            for first in range(int(start), int(stop), ROWS_AT_ONCE):
                part = range(first, min(first + ROWS_AT_ONCE, int(stop)))
                found = [
                    (text_id(text), row)
                    for row, captions in self._scan(source, part, skipped)
                    for texts in captions.values()
                    for text in texts
                ]
                ids.append(np.array([number for number, _ in found], np.int64))
                rows.append(np.array([row for _, row in found], np.int64))
        self.ids, index = np.unique(np.concatenate(ids), return_index=True)
        self.first_rows = np.concatenate(rows)[index]

    def _scan(
        self, source: int, rows: range, skipped: SkipReport
    ) -> Iterator[tuple[int, dict[str, list[str]]]]:
        """Count the captions of consecutive rows of a source."""
        for row, cells in zip(rows, self._cells(source, rows), strict=True):
            captions: dict[str, list[str]] = {}
            row_causes: list[str] = []
            for language, (texts, causes) in cells.items():
                skipped.add_captions(language, len(texts), causes)
                row_causes += causes
                if texts:
                    captions[language] = texts
            if not captions:
                skipped.add(row, row_causes[0])
            yield row, captions

    def _cells(
        self, source: int, rows: range | list[int]
    ) -> list[dict[str, tuple[list[str], list[str]]]]:
        """Usable captions of rows of a source, and the causes of the others, by language."""
        start = int(self.starts[source])
        values: dict[str, list[Any]] = {}
        try:
            for column in {*self.columns[source].values()}:
                cells = self.tables[source].column(column)
                if isinstance(rows, range):
                    values[column] = cells.slice(rows[0] - start, len(rows)).to_pylist()
                else:
                    values[column] = [cells[row - start].as_py() for row in rows]
        except UnicodeDecodeError as error:
            names = ", ".join(self.columns[source].values())
            raise ValueError(
                f"data: a caption in rows {rows[0]} to {rows[-1]} of the columns {names} is not UTF-8 ({error}). Fix "
                "or remove its row."
            ) from error
        return [
            {
                language: usable_captions(
                    values[column][number], language if self.check_scripts else None
                )
                for language, column in self.columns[source].items()
            }
            for number in range(len(rows))
        ]

    def read(self, rows: Sequence[int]) -> list[dict[str, list[str]]]:
        """Usable captions of rows by language, in the order of the rows."""
        found: list[dict[str, list[str]]] = [{} for _ in rows]
        sources = np.searchsorted(self.starts, rows, side="right") - 1
        for source in np.unique(sources).tolist():
            places = np.flatnonzero(sources == source).tolist()
            cells = self._cells(source, [int(rows[place]) for place in places])
            for place, captions in zip(places, cells, strict=True):
                found[place] = {
                    language: texts for language, (texts, _) in captions.items() if texts
                }
        return found

    def number_of(self, text: str) -> int:
        """Number of a caption among the different ones, the same on all processes."""
        return int(np.searchsorted(self.ids, text_id(text)))

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            rows = self.read(self.first_rows[part].tolist())
            for number, captions in zip(self.ids[part].tolist(), rows, strict=True):
                texts = (text for listed in captions.values() for text in listed)
                yield next(text for text in texts if text_id(text) == number)

    def digest(self) -> str:
        """Digest of all different captions."""
        return Digest().add(self.ids).hex()
