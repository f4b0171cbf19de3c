"""Captions of all rows of a source, resumable by shard.

    data/train-00000-of-00003.parquet   the rows of the source with the captions
    state/00000.json                    counts of a shard
    state/run.json                      the options that the result depends on, and the provenance
    captions.json                       counts of all shards: written captions, and dropped ones by cause

All files are written atomically, and a resumed run continues at the first missing file.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from PIL import Image as PILImage
from tqdm.auto import tqdm

from training.data import load_source, require_columns, rules_for, usable_captions
from training.data.images import ImageError, embedded_cell, open_image, undecoded
from training.prepare.captions.captioner import Captioner
from training.prepare.captions.options import PROGRAM, CaptionsOptions
from training.prepare.curate.similarity import Scorer
from training.prepare.run_state import STATE_FOLDER, start_or_resume
from training.teachers import Teacher
from training.utils.cli import command_of
from training.utils.files import atomic_write, holds_files, write_text
from training.utils.output import claim_folder
from training.utils.results import make_meta

DATA_FOLDER, COUNTS_FILE = "data", "captions.json"
WRITTEN, NO_IMAGE, REPEATED, UNLIKE = "written", "image does not decode", "repeated caption", "similarity too low"
# options that do not change the result
FREE = ("output_dir",)


def caption(options: CaptionsOptions) -> dict[str, int]:
    """Caption a source, or resume an interrupted run.

    Args:
        options: Options of the command.

    Returns:
        Number of written captions, and of dropped ones by cause.

    Raises:
        ValueError: The source, the captioner or the teacher cannot be opened, or the folder holds another run.
    """
    folder = Path(options.output_dir)
    if holds_files(folder) and not (folder / STATE_FOLDER).exists():
        raise ValueError(f"output_dir: {str(folder)!r} is not empty. Name a new folder.")
    rows = load_source(options.data)
    rows = require_columns(rows, [options.image_column], options.data, "Name the right one as image_column.", "data")
    rows = undecoded(rows, options.image_column, options.data)
    if not len(rows):
        raise ValueError(f"data: {options.data!r} has no rows. Name another source.")
    captioner = Captioner(options)
    names = [DATA_FOLDER, STATE_FOLDER, COUNTS_FILE]
    with claim_folder(folder, names, command="captions", inputs={"data": options.data}, overwrite=True):
        meta = _start_or_resume(folder, options, captioner, rows)
        counts = _caption_shards(folder, rows, captioner, options)
        content = {"meta": meta, "language": options.language, "captions": counts}
        write_text(folder / COUNTS_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return counts


def _caption_shards(folder: Path, rows: Dataset, captioner: Captioner, options: CaptionsOptions) -> dict[str, int]:
    starts = range(0, len(rows), options.rows_per_shard)
    scorer: Scorer | None = None
    total: Counter[str] = Counter({WRITTEN: 0})
    for number, start in enumerate(tqdm(starts, desc="captions", unit="shard")):
        shard = rows.select(range(start, min(start + options.rows_per_shard, len(rows))))
        path = folder / DATA_FOLDER / f"train-{number:05d}-of-{len(starts):05d}.parquet"
        state = folder / STATE_FOLDER / f"{number:05d}.json"
        if not (path.exists() and state.exists()):
            if options.teacher is not None:
                scorer = scorer or Scorer(options.teacher, options.dtype, options.batch_size)
            counts = _caption_shard(shard, path, captioner, scorer, options, number)
            write_text(state, json.dumps(counts, ensure_ascii=False))
        total.update(json.loads(state.read_text(encoding="utf-8")))
    return dict(total)


def _caption_shard(
    shard: Dataset,
    path: Path,
    captioner: Captioner,
    scorer: Scorer | None,
    options: CaptionsOptions,
    number: int,
) -> Counter[str]:
    """Caption the rows of a shard and write them. A shard depends on the seed and its number alone."""
    torch.manual_seed(1_000_003 * options.seed + number)
    counts: Counter[str] = Counter()
    rules = rules_for(options.data)
    captions: list[list[str]] = []
    stored: list[dict[str, Any] | None] = []
    for start in range(0, len(shard), options.batch_size):
        cells = [rules(cell) for cell in shard[start : start + options.batch_size][options.image_column]]
        images = [_open(cell) for cell in cells]
        stored += [embedded_cell(cell) if isinstance(cell, dict) else None for cell in cells]
        readable = [image for image in images if image is not None]
        made = iter(captioner(readable) if readable else [])
        texts = [next(made) if image is not None else [] for image in images]
        counts[NO_IMAGE] += len(images) - len(readable)
        kept = [_usable(found, options.language, counts) for found in texts]
        captions += _similar(kept, cells, scorer, options, counts)
    table = _with_images(shard.with_format("arrow")[:], options.image_column, stored)
    if options.column in table.column_names:
        given = [usable_captions(cell)[0] for cell in table[options.column].to_pylist()]
        captions = [list(dict.fromkeys([*own, *new])) for own, new in zip(given, captions, strict=True)]
        table = table.drop_columns([options.column])
    table = table.append_column(options.column, pa.array(captions, pa.list_(pa.string())))
    with atomic_write(path) as scratch:
        pq.write_table(table.replace_schema_metadata(None), scratch)
    return counts


def _with_images(table: pa.Table, column: str, cells: list[dict[str, Any] | None]) -> pa.Table:
    """The table with the content of its images, so that they travel with the captions."""
    images = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    return table.set_column(table.column_names.index(column), column, images)


def _open(cell: dict | str | None) -> PILImage.Image | None:
    if not isinstance(cell, dict):
        return None
    try:
        return open_image(cell)
    except (OSError, ImageError, PILImage.DecompressionBombError):
        return None


def _usable(texts: list[str], language: str, counts: Counter[str]) -> list[str]:
    """Captions of one image that have a letter of the language's script, each of them once."""
    usable, causes = usable_captions(texts, language) if texts else ([], [])
    counts.update(causes)
    different = list(dict.fromkeys(usable))
    counts[REPEATED] += len(usable) - len(different)
    return different


def _similar(
    captions: list[list[str]], cells: list[Any], scorer: Scorer | None, options: CaptionsOptions, counts: Counter[str]
) -> list[list[str]]:
    """Captions that the teacher finds similar enough to their images."""
    owners = [row for row, texts in enumerate(captions) for _ in texts]
    if scorer is not None and owners:
        images = scorer.encode_images([cells[row] for row in dict.fromkeys(owners)])
        position = {row: number for number, row in enumerate(dict.fromkeys(owners))}
        texts = [text for group in captions for text in group]
        cosines = scorer.score(images[[position[row] for row in owners]], texts)
        kept: list[list[str]] = [[] for _ in captions]
        for row, text, cosine in zip(owners, texts, cosines, strict=True):
            if options.min_similarity is None or cosine >= options.min_similarity:
                kept[row].append(text)
            else:
                counts[UNLIKE] += 1
        captions = kept
    counts[WRITTEN] += sum(len(texts) for texts in captions)
    return captions


def _start_or_resume(folder: Path, options: CaptionsOptions, captioner: Captioner, rows: Dataset) -> dict[str, Any]:
    """Store the options and provenance of a new run, or compare them with those of the run to resume."""
    key = {name: value for name, value in vars(options).items() if name not in FREE}
    key |= {"revision of model": captioner.revision, "number of rows": len(rows)}
    if options.teacher is not None:
        key["revision of teacher"] = Teacher.from_pretrained(options.teacher, towers=()).revision
    command = command_of(PROGRAM, options)
    return start_or_resume(folder, key, lambda: make_meta(options.data, options.seed, command, model=options.model))
