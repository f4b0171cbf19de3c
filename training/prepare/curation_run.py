"""Both passes of the curation, resumable, and the shards of the curated set.

data/train-00000-of-00003.parquet   the curated set: encoded images unchanged, captions stripped of whitespace
report.json, report.md              counts and samples of dropped rows and captions, by cause
state/run.json                      the options that the result depends on, and the provenance
state/facts/00000.safetensors       facts of the rows of a shard
state/excluded/00000.safetensors    hashes of the images of an excluded source
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, Image, List, Value
from safetensors.numpy import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from modeling_dcclip.image_dcclip import squashes
from training.data import (
    decode_images,
    evenly_spaced_rows,
    load_source,
    require_allowed,
    require_columns,
    rules_for,
    usable_captions,
)
from training.data.captions import text_id
from training.data.images import embedded_cell, encoded_bytes, fetch_allowed
from training.data.transforms import Normalize
from training.prepare.curation import CODES, KEPT, CaptionFilter, Facts, decide, shingle_size
from training.prepare.curation_options import PROGRAM, CurateOptions
from training.prepare.curation_report import MARKDOWN_FILE, REPORT_FILES, Report, write_report
from training.prepare.duplicates import NUM_COLOURS, TEXT_BANDS, MinHash, examine_image, normalise
from training.teachers import Teacher
from training.utils.cli import command_of
from training.utils.files import atomic_write, holds_files, write_text
from training.utils.output import claim_folder
from training.utils.results import make_meta, portable_values

DATA_FOLDER, STATE_FOLDER, STATE_FILE = "data", "state", "run.json"
FINGERPRINT_ROWS = 1024  # larger sources are sampled
ROWS_PER_GROUP = 256  # of a parquet file, which is read one row group at a time
IMAGES_PER_CHUNK = 256
MIN_CONTRAST = 4.0  # standard deviation of the brightness, 0..127


def curate(options: CurateOptions) -> Report:
    """Curate a source, or resume an interrupted run.

    All files are written atomically, and a resumed run continues at the first missing file. Memory holds one shard and
    the facts of all rows: about 60 bytes per row and 90 bytes per caption.

    Args:
        options: Data, columns and thresholds.

    Returns:
        The report of the run.

    Raises:
        ValueError: If an option or a source is invalid, the folder holds a different run, or no row is left.
    """
    folder = Path(options.output_dir)
    if holds_files(folder) and not (folder / STATE_FOLDER).exists():
        raise ValueError(f"output_dir: {str(folder)!r} is not empty. Name a new folder.")
    with claim_folder(folder, [STATE_FOLDER, DATA_FOLDER, *REPORT_FILES], command="curate", overwrite=True):
        source = Source(options)
        meta = _start_or_resume(folder / STATE_FOLDER / STATE_FILE, options, source)
        facts, excluded = source.examine(folder / STATE_FOLDER), source.hash_excluded(folder / STATE_FOLDER)
        all_excluded = np.concatenate([np.zeros(0, np.uint64), *excluded.values()])
        decisions = decide(facts, all_excluded, options, source.read_text)
        report = write_report(folder, decisions, excluded, options, meta, source.read_text)
        if not len(facts.kept_rows):
            raise ValueError(
                f"data: no row of {options.data!r} is left. Relax the filters; {folder / MARKDOWN_FILE} lists the "
                "causes."
            )
        source.write(folder / DATA_FOLDER, facts)
    return report


def _start_or_resume(path: Path, options: CurateOptions, source: "Source") -> dict[str, Any]:
    """Store the options and provenance of a new run, or compare the options with the run to resume.

    Returns:
        The provenance. A resumed run keeps the command, date and commit of its start.
    """
    key = options.key() | {"fingerprint of data": source.fingerprint()}
    # names are shortened below, and two sources may have the same last part
    key["excluded"] = [hashlib.sha256(name.encode()).hexdigest()[:16] for name in options.exclude]
    if options.teacher is not None:
        key["revision of teacher"] = Teacher.from_pretrained(options.teacher, towers=()).revision
    key = portable_values(json.loads(json.dumps(key)))
    if not path.exists():
        meta = portable_values(make_meta(options.data, options.seed, command_of(PROGRAM, options)))
        write_text(path, json.dumps({"key": key, "meta": meta}, indent=1, ensure_ascii=False))
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        stored, meta = dict(state["key"]), dict(state["meta"])
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"output_dir: {path} is damaged ({error}). Delete {path.parents[1]} and run again."
        ) from error
    for name, value in key.items():
        if stored.get(name) != value:
            raise ValueError(
                f"{name}: the folder was started with {stored.get(name)!r}, this run has {value!r}. Use the same "
                f"value, a new output_dir, or delete {str(path.parents[1])!r}."
            )
    return meta


class Source:
    """The rows to curate, in shards.

    Args:
        options: Data and columns.

    Raises:
        ValueError: If the source cannot be loaded, is empty, or lacks a column of captions or images.
    """

    def __init__(self, options: CurateOptions):
        self.options = options
        self.rules = rules_for(options.data, options.allow_urls, options.allow_paths)
        self.rows = _load(options.data, [options.image_column, *options.caption_columns.values()], options)
        if not len(self.rows):
            raise ValueError(f"data: {options.data!r} has no rows. Name a different source.")
        self.is_list = {column: self._is_list(column) for column in options.caption_columns.values()}
        self._captions = {  # separate from the images, so that reading a caption does not read its image
            language: self.rows.select_columns([column]) for language, column in options.caption_columns.items()
        }
        starts = range(0, len(self.rows), options.rows_per_shard)
        self.shards = [range(start, min(start + options.rows_per_shard, len(self.rows))) for start in starts]

    def _is_list(self, column: str) -> bool:
        """Whether the cells of a caption column are lists of strings, and not strings."""
        kind = self.rows.features[column]
        item = kind.feature if isinstance(kind, List) else kind
        if not isinstance(item, Value) or item.dtype not in ("string", "large_string", "null"):
            raise ValueError(
                f"caption_columns: {column!r} of {self.options.data!r} holds {kind}, expected strings or lists of "
                "strings. Name the column of the captions."
            )
        return isinstance(kind, List)

    def read_text(self, language: str, row: int, number: int) -> str:
        """Text of a caption by its row and its index among the usable captions of the cell."""
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
        """Facts of all rows. Stored shards are loaded, missing ones are computed and stored."""
        files = [state / "facts" / f"{number:05d}.safetensors" for number in range(len(self.shards))]
        missing = [(path, rows) for path, rows in zip(files, self.shards, strict=True) if not path.exists()]
        if missing:
            examiner = Examiner(self)
            with tqdm(total=sum(len(rows) for _, rows in missing), desc="examine", unit="row") as progress:
                for path, rows in missing:
                    examiner(rows).save(path)
                    progress.update(len(rows))
        return Facts.join([Facts.load(path) for path in files])

    def hash_excluded(self, state: Path) -> dict[str, np.ndarray]:
        """Hashes of the images of each excluded source, (E,) uint64 by name."""
        column, hashes_by_source = self.options.image_column, {}
        for number, name in enumerate(self.options.exclude):
            path = state / "excluded" / f"{number:05d}.safetensors"
            if not path.exists():
                rows = _load(name, [column], self.options, is_excluded=True)
                found = _in_chunks(rows, column, examine_image, self.options.workers)
                for row, image in enumerate(found):
                    if image.cause is not None:
                        raise ValueError(
                            f"exclude: row {row} cannot be hashed ({image.cause}). Fix or remove the row."
                        )
                with atomic_write(path) as scratch:
                    save_file({"hash": np.array([image.hash for image in found], np.uint64)}, scratch)
            hashes_by_source[name] = load_file(path)["hash"]
        return hashes_by_source

    def write(self, folder: Path, facts: Facts):
        """Write the kept rows, one parquet file for each shard that has any."""
        features = Features({self.options.image_column: Image()})
        for column, is_list in self.is_list.items():
            features[column] = List(Value("string")) if is_list else Value("string")
        kept = facts.kept_rows
        parts = [kept[slice(*np.searchsorted(kept, [rows.start, rows.stop]))] for rows in self.shards]
        parts = [part for part in parts if len(part)]
        for number, rows in enumerate(tqdm(parts, desc="write", unit="shard")):
            path = folder / f"train-{number:05d}-of-{len(parts):05d}.parquet"
            if not _is_whole(path, len(rows)):
                table = pa.Table.from_pydict(self._cells(rows, facts), schema=features.arrow_schema)
                with atomic_write(path) as scratch:
                    pq.write_table(table, scratch, row_group_size=ROWS_PER_GROUP)

    def _cells(self, rows: np.ndarray, facts: Facts) -> dict[str, list[Any]]:
        """Columns of kept rows. A cell without kept captions is None."""
        image_column = self.options.image_column
        images = [embedded_cell(self.rows[int(row)][image_column]) for row in rows]
        cells: dict[str, list[Any]] = {image_column: images}
        positions = {int(row): position for position, row in enumerate(rows)}
        for number, (language, column) in enumerate(self.options.caption_columns.items()):
            usable = [usable_captions(cell)[0] for cell in self._captions[language].select(rows)[:][column]]
            texts: list[list[str]] = [[] for _ in rows]
            for index in facts.kept_captions(number):
                position = positions.get(int(facts.row[index]))
                if position is not None:
                    texts[position].append(usable[position][facts.number[index]])
            cells[column] = [(each if self.is_list[column] else each[0]) if each else None for each in texts]
        return cells


def _is_whole(path: Path, num_rows: int) -> bool:
    """Whether a shard of an earlier run can be read to its end and has as many rows as it should."""
    try:
        with pq.ParquetFile(path) as file:
            return sum(batch.num_rows for batch in file.iter_batches()) == num_rows
    except (OSError, pa.ArrowException):
        return False


def _load(name: str, columns: list[str], options: CurateOptions, is_excluded: bool = False) -> Dataset:
    """Load the named columns of a source, with undecoded images. The first column is the image column."""
    rows = load_source(name, subset=None if is_excluded else options.subset)
    field = "exclude" if is_excluded else "data"
    option = "image_column" if is_excluded else "image_column or caption_columns"
    rows = require_columns(rows, columns, name, f"Name the right one as {option}.", field)
    # an excluded image that is not opened would let its copies pass, so it is refused
    open_images = require_allowed if is_excluded else fetch_allowed
    rules = rules_for(name, options.allow_urls, options.allow_paths)
    return open_images(rows.select_columns(columns), columns[0], rules, name, field)


def _in_chunks(rows: Dataset, column: str, examine: Callable, workers: int) -> list[Any]:
    """Results of a function of every cell of an image column, computed by threads."""
    with ThreadPoolExecutor(workers) as pool:
        return [
            found
            for start in range(0, len(rows), IMAGES_PER_CHUNK)
            for found in pool.map(examine, rows[start : start + IMAGES_PER_CHUNK][column])
        ]


class Examiner:
    """Checks of each row by itself, on shards of the source.

    Args:
        source: The rows, and the options.
    """

    def __init__(self, source: Source):
        self.source, self.options = source, source.options
        self.scorer = Scorer(self.options) if self.options.teacher is not None else None
        languages, threshold = self.options.caption_columns, self.options.max_caption_similarity or 1
        self.filters = {language: CaptionFilter(language, self.options.max_other_language) for language in languages}
        self.hashes = {language: MinHash(threshold, shingle_size(language)) for language in languages}

    def __call__(self, rows: range) -> Facts:
        """Facts of a range of rows. Captions of dropped images are not checked."""
        options, shard = self.options, self.source.rows.select(rows)
        thresholds = options.min_edge, options.max_aspect_ratio, MIN_CONTRAST
        images = _in_chunks(
            shard,
            options.image_column,
            lambda cell: examine_image(self.source.rules(cell), *thresholds),
            options.workers,
        )
        causes = [image.cause or KEPT for image in images]
        captions: list[tuple[int, int, int, str, str]] = []  # row, language, number, cause, text
        for position, (language, column) in enumerate(options.caption_columns.items()):
            for row, cell in enumerate(shard[column][:]):
                texts, unusable = usable_captions(cell)
                for number, text in enumerate(texts):
                    cause = causes[row] if causes[row] != KEPT else self.filters[language](text) or KEPT
                    captions.append((row, position, number, cause, text))
                captions += [(row, position, -1, cause, "") for cause in unusable]
        languages, texts = list(options.caption_columns), [text for *_, text in captions]
        bands, identity = np.zeros((len(captions), TEXT_BANDS), np.uint32), np.zeros(len(captions), np.uint64)
        for index, (_, position, _, cause, text) in enumerate(captions):
            if cause == KEPT:
                normal = normalise(text)
                bands[index], identity[index] = self.hashes[languages[position]].bands(normal), text_id(normal)
        facts = Facts(
            cause=np.array([CODES[cause] for cause in causes], np.uint8),
            hash=np.array([image.hash for image in images], np.uint64),
            colours=np.array([image.colours for image in images], np.uint8).reshape(-1, NUM_COLOURS),
            row=np.array([row for row, *_ in captions], np.int64),
            language=np.array([position for _, position, *_ in captions], np.uint8),
            number=np.array([number for _, _, number, *_ in captions], np.int32),
            text_cause=np.array([CODES[cause] for *_, cause, _ in captions], np.uint8),
            identity=identity,
            bands=bands,
            similarity=np.full(len(captions), np.nan, np.float32),
        )
        facts.drop_without_captions()
        if self.scorer is not None:
            kept, scored = facts.kept_rows, facts.kept_captions()
            embeddings = self.scorer.encode_images([shard[int(row)][options.image_column] for row in kept])
            of_captions = embeddings[np.searchsorted(kept, facts.row[scored])]
            facts.similarity[scored] = self.scorer.score(of_captions, [texts[index] for index in scored])
        facts.row += rows.start
        return facts


class Scorer:
    """Computes cosines between images and captions with a teacher of any family.

    Args:
        options: Teacher, its data type and the batch size.

    Raises:
        ValueError: If the teacher cannot be loaded.
    """

    def __init__(self, options: CurateOptions):
        self.device, self.batch_size = "cuda" if torch.cuda.is_available() else "cpu", options.batch_size
        dtype = getattr(torch, options.teacher_dtype)
        self.teacher = Teacher.from_pretrained(str(options.teacher), dtype=dtype, device=self.device)
        self.normalize = Normalize.from_processor(self.teacher.image_processor, self.teacher.image_size)

    def encode_images(self, cells: list[dict]) -> Tensor:
        """Embeddings of undecoded images, (N, D) float32, L2-normalised. All images must decode."""
        embeddings = [torch.empty(0, self.teacher.projection_dim)]
        for start in range(0, len(cells), self.batch_size):
            part, squash = cells[start : start + self.batch_size], squashes(self.teacher.image_processor)
            images = torch.stack([_decoded(each) for each in decode_images(part, self.teacher.image_size, squash)])
            targets = self.teacher.encode_images(self.normalize(images.to(self.device)))
            embeddings.append(_unit(targets.embedding))
        return torch.cat(embeddings)

    def score(self, images: Tensor, texts: list[str]) -> np.ndarray:
        """Cosine of each text with its image.

        Args:
            images: (T, D) float32, L2-normalised image embedding of each text.
            texts: T captions.

        Returns:
            (T,) float32 in -1..1.

        Raises:
            ValueError: If the teacher returns values that are not finite.
        """
        # batches of texts of similar length need less padding
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        cosines = np.zeros(len(texts), np.float32)
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            targets = self.teacher.encode_texts(**self.teacher.tokenize([texts[number] for number in chunk]))
            cosines[chunk] = (_unit(targets.embedding) * images[chunk]).sum(1).numpy()
        if not np.isfinite(cosines).all():
            raise ValueError(f"teacher_dtype: {self.teacher.name!r} returns values that are not finite. Use float32.")
        return cosines


def _decoded(image: Tensor | str) -> Tensor:
    if isinstance(image, str):
        raise ValueError(f"teacher: an image that passes the checks cannot be decoded ({image}). Remove it.")
    return image


def _unit(embedding: Tensor) -> Tensor:
    return F.normalize(embedding.float(), dim=-1).cpu()
