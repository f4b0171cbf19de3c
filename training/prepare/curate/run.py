"""Both passes of the curation, resumable, and the shards of the curated set.

    data/train-00000-of-00003.parquet   the curated set: encoded images unchanged, captions stripped of whitespace
    report.json, report.md              counts and samples of dropped rows and captions, by cause
    similarity.png                      cosines by language, if a teacher scored them
    state/run.json                      the options that the result depends on, and the provenance
    state/facts/00000.safetensors       facts of the rows of a shard
    state/excluded/00000.safetensors    hashes of the images of an excluded source

All files are written atomically, and a resumed run continues at the first missing file. Memory holds one shard and the
facts of all rows: about 60 bytes per row and 90 bytes per caption.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, List, Value
from safetensors.numpy import load_file, save_file
from tqdm.auto import tqdm

from training.data import (
    evenly_spaced_rows,
    load_source,
    require_allowed,
    require_columns,
    rules_for,
    usable_captions,
)
from training.data.images import embedded_cell, encoded_bytes, fetch_allowed
from training.prepare.curate.decide import decide
from training.prepare.curate.examine import Examiner, image_hashes
from training.prepare.curate.facts import Facts
from training.prepare.curate.options import PROGRAM, CurateOptions
from training.prepare.curate.similarity import Scorer
from training.prepare.curate.write_report import MARKDOWN_FILE, REPORT_FILES, Report, write_report
from training.prepare.run_state import STATE_FOLDER, start_or_resume
from training.teachers import Teacher
from training.utils.cli import command_of
from training.utils.files import atomic_write, holds_files
from training.utils.output import claim_folder
from training.utils.results import make_meta

DATA_FOLDER = "data"
FINGERPRINT_ROWS = 1024  # larger sources are sampled
ROWS_PER_GROUP = 256  # of a parquet file, which is read one row group at a time


def curate(options: CurateOptions) -> Report:
    """Curate a source, or resume an interrupted run.

    Args:
        options: Data, columns and thresholds.

    Returns:
        The report of the run.

    Raises:
        ValueError: If an option or a source is invalid, the folder holds another run, or no row is left.
    """
    folder = Path(options.output_dir)
    if holds_files(folder) and not (folder / STATE_FOLDER).exists():
        raise ValueError(f"output_dir: {str(folder)!r} is not empty. Name a new folder.")
    with claim_folder(folder, [STATE_FOLDER, DATA_FOLDER, *REPORT_FILES], command="curate", overwrite=True):
        return _curate(options, folder)


def _curate(options: CurateOptions, folder: Path) -> Report:
    source = Source(options)
    meta = _start_or_resume(folder, options, source)
    facts, excluded = source.examine(folder / STATE_FOLDER), source.hash_excluded(folder / STATE_FOLDER)
    decisions = decide(facts, np.concatenate([np.zeros(0, np.uint64), *excluded.values()]), options, source.read_text)
    report = write_report(folder, decisions, excluded, options, meta, source.read_text)
    if not facts.kept.any():
        raise ValueError(
            f"data: no row of {options.data!r} is left. Relax the filters; {folder / MARKDOWN_FILE} lists the causes."
        )
    source.write(folder / DATA_FOLDER, facts)
    return report


class Source:
    """The rows to curate, in shards.

    Args:
        options: Data and columns.

    Raises:
        ValueError: If the source cannot be loaded, is empty, or lacks a column.
    """

    def __init__(self, options: CurateOptions):
        self.options = options
        self.rules = rules_for(options.data, options.allow_urls, options.allow_paths)
        self.rows = _load(options.data, [options.image_column, *options.caption_columns.values()], options)
        if not len(self.rows):
            raise ValueError(f"data: {options.data!r} has no rows. Name another source.")
        self._captions = {  # separate from the images, so that reading a caption does not read its image
            language: self.rows.select_columns([column]) for language, column in options.caption_columns.items()
        }
        self.shards = [
            range(start, min(start + options.rows_per_shard, len(self.rows)))
            for start in range(0, len(self.rows), options.rows_per_shard)
        ]

    def read_text(self, language: str, row: int, number: int) -> str:
        """Text of one caption.

        Args:
            language: Language of the caption.
            row: Row of the source.
            number: Index among the usable captions of the cell.
        """
        column = self.options.caption_columns[language]
        return usable_captions(self._captions[language][row][column])[0][number]

    def fingerprint(self) -> str:
        """A digest of the number of rows and their content. A source of more than 1024 rows is sampled evenly."""
        digest = hashlib.blake2b(str(len(self.rows)).encode(), digest_size=8)
        for row in evenly_spaced_rows(len(self.rows), FINGERPRINT_ROWS):
            cells = self.rows[row]
            digest.update(encoded_bytes(self.rules(cells[self.options.image_column])))
            captions = [cells[column] for column in self.options.caption_columns.values()]
            digest.update(json.dumps(captions, ensure_ascii=True, default=str).encode())
        return digest.hexdigest()

    def examine(self, state: Path) -> Facts:
        """Facts of all rows. Stored shards are loaded, missing ones are computed and stored.

        Args:
            state: Folder of the state files.
        """
        files = [state / "facts" / f"{number:05d}.safetensors" for number in range(len(self.shards))]
        missing = [(path, rows) for path, rows in zip(files, self.shards, strict=True) if not path.exists()]
        if missing:
            options = self.options
            scorer = Scorer(options.teacher, options.teacher_dtype, options.batch_size) if options.teacher else None
            examiner = Examiner(self.rows, options, scorer, self.rules)
            with tqdm(total=sum(len(rows) for _, rows in missing), desc="examine", unit="row") as progress:
                for path, rows in missing:
                    examiner(rows).save(path)
                    progress.update(len(rows))
        return Facts.join([Facts.load(path, list(self.options.caption_columns)) for path in files])

    def hash_excluded(self, state: Path) -> dict[str, np.ndarray]:
        """Hashes of the images of each excluded source, (E,) uint64 by name.

        Args:
            state: Folder of the state files.
        """
        options, hashes_by_source = self.options, {}
        column = options.exclude_column or options.image_column
        for number, name in enumerate(options.exclude):
            path = state / "excluded" / f"{number:05d}.safetensors"
            if not path.exists():
                rows = _load(name, [column], options, is_excluded=True)
                hashes = image_hashes(rows, column, options)
                with atomic_write(path) as scratch:
                    save_file({"hash": hashes}, scratch)
            hashes_by_source[name] = load_file(path)["hash"]
        return hashes_by_source

    def write(self, folder: Path, facts: Facts):
        """Write the kept rows, one parquet file per shard that has any.

        Args:
            folder: Folder of the curated set.
            facts: Facts of all rows, with the final causes.
        """
        features = Features({self.options.image_column: Image()})
        for column in self.options.caption_columns.values():
            is_list = isinstance(self.rows.features[column], List)
            features[column] = List(Value("string")) if is_list else Value("string")
        shards = [rows for rows in self.shards if facts.kept[rows.start : rows.stop].any()]
        for number, rows in enumerate(tqdm(shards, desc="write", unit="shard")):
            path = folder / f"train-{number:05d}-of-{len(shards):05d}.parquet"
            if _is_whole(path, int(facts.kept[rows.start : rows.stop].sum())):
                continue
            table = pa.Table.from_pydict(self._kept_cells(rows, facts), schema=features.arrow_schema)
            with atomic_write(path) as scratch:
                pq.write_table(table, scratch, row_group_size=ROWS_PER_GROUP)

    def _kept_cells(self, rows: range, facts: Facts) -> dict[str, list[Any]]:
        """Columns of the kept rows of a shard. A cell without kept captions is None."""
        kept = [row for row in rows if facts.kept[row]]
        positions = {row: position for position, row in enumerate(kept)}
        cells: dict[str, list[Any]] = {self.options.image_column: [self._image(row) for row in kept]}
        for language, column in self.options.caption_columns.items():
            captions = facts.captions[language]
            first, last = np.searchsorted(captions.row, [rows.start, rows.stop])
            usable = [usable_captions(cell)[0] for cell in self._captions[language].select(rows)[:][column]]
            texts: list[list[str]] = [[] for _ in kept]
            for index in first + np.flatnonzero(captions.kept[first:last]):
                row = int(captions.row[index])
                texts[positions[row]].append(usable[row - rows.start][captions.number[index]])
            is_list = isinstance(self.rows.features[column], List)
            cells[column] = [(cell if is_list else cell[0]) if cell else None for cell in texts]
        return cells

    def _image(self, row: int) -> dict[str, Any]:
        return embedded_cell(self.rows[row][self.options.image_column])


def _is_whole(path: Path, num_rows: int) -> bool:
    """Whether a shard of an earlier run can be read to its end and has as many rows as it should."""
    try:
        with pq.ParquetFile(path) as file:
            return sum(batch.num_rows for batch in file.iter_batches()) == num_rows
    except (OSError, pa.ArrowException):
        return False


def _load(name: str, columns: list[str], options: CurateOptions, is_excluded: bool = False) -> Dataset:
    """Load the named columns of a source, with undecoded images. The first column is that of the images."""
    rows = load_source(name, subset=None if is_excluded else options.subset)
    field = "exclude" if is_excluded else "data"
    option = "exclude_column" if is_excluded else "image_column or caption_columns"
    rows = require_columns(rows, columns, name, f"Name the right one as {option}.", field)
    # an excluded image that is not opened would let its copies pass, so that it is refused
    open_images = require_allowed if is_excluded else fetch_allowed
    rules = rules_for(name, options.allow_urls, options.allow_paths)
    return open_images(rows.select_columns(columns), columns[0], rules, name, field)


def _start_or_resume(folder: Path, options: CurateOptions, source: Source) -> dict[str, Any]:
    """Store the options and provenance of a new run, or compare them with those of the run to resume.

    Returns:
        The provenance. A resumed run keeps the command, date and commit of its start.
    """
    key = options.key() | {"fingerprint of data": source.fingerprint()}
    if options.teacher is not None:
        key["revision of teacher"] = Teacher.from_pretrained(options.teacher, towers=()).revision
    return start_or_resume(folder, key, lambda: make_meta(options.data, options.seed, command_of(PROGRAM, options)))
