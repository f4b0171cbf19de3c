"""Embed the missing shards of a collection with several processes, and write an index.

The processes divide the missing shards among them. Each shard becomes a Parquet file, which is complete or absent, so
an interrupted run continues with the others.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from modeling_dcclip.search import bulk
from training.data.reader import digest_sources, load_source, open_stream, rules_for
from training.data.shards import Shards, get_cell
from training.embedding import EmbedOptions
from training.embedding.embedder import Embedder, schema
from training.utils.cli import one_line
from training.utils.files import atomic_write, replace_folder, scratch_folder, sync
from training.utils.keys import digest_key, make_key
from training.utils.output import claim_folder
from training.utils.process import at_own_pace, find_processes, num_cores
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

log = logging.getLogger(__name__)

SHARDS = "shards"
INDEX = "index"
KEY = b"key"
FILES = (SHARDS, INDEX, RESULTS_FILE)
ROW_GROUP = 8192  # rows in memory at once
EMBEDDED = "embedded"


@dataclass(frozen=True)
class ShardKey:
    """What the shards of a collection depend on: a run continues only with its own.

    Args:
        options: Options of the command.
        model: Digest of the files that encode and prepare images.
        encoder: File that encodes, or the precision of the weights.
        data: Digest of the state of the data; of a stream, of its locations alone, so that a shard that could not be
            read can be repaired.
        num_shards: Number of shards.
        num_rows: Number of rows; None for a stream.
    """

    options: EmbedOptions
    model: str
    encoder: str
    data: str
    num_shards: int
    num_rows: int | None


def embed(options: EmbedOptions) -> Results | None:
    """Embed a collection.

    Returns:
        Number of embedded images and of those that could not be read, by cause, in the first process; None in all
        others.

    Raises:
        ValueError: The data or the model cannot be used, the folder has embeddings of other data or of a different
            model, or no image can be read.
        OSError: A shard cannot be read, or the disk is full. Finished shards stay.
    """
    state = find_processes()
    folder = Path(options.output_dir)
    shards, num_rows = _open(options)
    cores = max(1, num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    rules = rules_for(options.data, options.allow_paths)
    embedder = Embedder(options.model, state.device, cores, rules)
    if options.format == "index":
        embedder.runtime.file("text")  # a model without it cannot search the index
    with ExitStack() as claimed:
        if state.is_main_process:
            inputs = {"model": options.model}
            inputs |= {f"data {number}": name for number, name in enumerate(options.data)}
            claimed.enter_context(
                claim_folder(folder, FILES, command="embed", inputs=inputs, flag=None)
            )
        state.wait_for_everyone()
        key = ShardKey(
            options,
            model=embedder.digest(),
            encoder=embedder.encoder,
            data=digest_sources(options.data, with_states=not options.streaming),
            num_shards=len(shards),
            num_rows=num_rows,
        )
        columns = schema(embedder.dimension).with_metadata({KEY: digest_key(make_key(key))})
        paths = [folder / SHARDS / f"{number:05d}.parquet" for number in range(len(shards))]
        missing = []
        for number, path in enumerate(paths):
            if not path.exists():
                missing.append(number)
                continue
            try:
                written = pq.read_schema(path).metadata or {}
            except (OSError, pa.ArrowException) as error:
                raise ValueError(
                    f"output_dir: {str(path)!r} is damaged ({one_line(error)}). Remove it: the same command writes it "
                    "again."
                ) from error
            if written.get(KEY) != columns.metadata[KEY]:
                raise ValueError(
                    f"output_dir: {str(path)!r} has embeddings of other data or options, or of a different model. "
                    "Choose a different folder."
                )
        state.wait_for_everyone()  # until all have seen the same files
        began = time.monotonic()
        failures = []
        name = f"images of process {state.process_index + 1} of {state.num_processes}"
        bar = tqdm(desc=name, unit="image", disable=not state.is_main_process)
        with at_own_pace(), bar as progress:
            for number in missing[state.process_index :: state.num_processes]:
                images = _named_cells(shards, number, options)
                try:
                    for table in _written(paths[number], columns, embedder, images, options):
                        progress.update(len(table))
                except ValueError as error:
                    log.warning("%s", error)
                    failures.append(str(error))
        failures = gather_object(failures)
        if not state.is_main_process:
            return None
        if failures:
            raise OSError(
                f"data: {len(failures)} of {len(missing)} shards could not be read. The first: {failures[0]} Finished "
                "shards are kept: run the same command again."
            )
        new = sum(pq.read_metadata(paths[number]).num_rows for number in missing)
        results = _count(options, paths, new / (time.monotonic() - began))
        if options.format == "index":
            num_indexed = write_index(paths, folder / INDEX, options.model, options.model_id)
            if repeated := results.values(metric=EMBEDDED)[0] - num_indexed:
                metric = f"not in the index: {bulk.REPEATED}"
                results.rows.append(Row(model=options.model, metric=metric, value=repeated))
        results.write(folder)
    return results


def _open(options: EmbedOptions) -> tuple[Shards, int | None]:
    """The images of a source in shards, and their number; None for a stream."""
    count = None
    reading = {"subset": options.subset, "image_column": options.image_column}
    if options.streaming:
        stream = open_stream(options.data, options.split, **reading)
    else:
        rows = load_source(options.data, options.split, **reading)
        count = len(rows)
        stream = rows.to_iterable_dataset(num_shards=-(-count // options.rows_per_shard))
    names = [options.name_column] if options.name_column else []
    return Shards(stream, 0, " ".join(options.data), options.image_column, names), count


def _written(
    path: Path,
    columns: pa.Schema,
    embedder: Embedder,
    images: Iterator[tuple[str, Any]],
    options: EmbedOptions,
) -> Iterator[pa.Table]:
    """Embed the images of a shard, and write each table that is yielded."""
    with atomic_write(path) as scratch:
        with pq.ParquetWriter(scratch, columns) as writer:
            for table in embedder.tables(images, options.batch_size):
                writer.write_table(table.cast(columns), row_group_size=ROW_GROUP)
                yield table
        sync(scratch)


def _named_cells(shards: Shards, number: int, options: EmbedOptions) -> Iterator[tuple[str, Any]]:
    """Name and cell of each image of a shard."""
    for row, cells in enumerate(shards.read(number, 0)):
        cell = cells[options.image_column]
        name = None
        if options.name_column:
            name = get_cell(cells, options.name_column)
        elif isinstance(cell, dict) and cell.get("bytes") is None:
            name = cell.get("path")
        if name is None:
            name = f"{number:05d}/{row:06d}"
        yield str(name), cell


def _count(options: EmbedOptions, shards: Sequence[Path], images_per_s: float) -> Results:
    """Count images and failures, and refuse data without a readable image."""
    errors: Counter[str | None] = Counter()
    for path in shards:
        errors.update(pq.read_table(path, columns=["error"])["error"].to_pylist())
    embedded = errors.pop(None, 0)
    if not embedded:
        raise ValueError(
            f"data: no image of {' '.join(options.data)!r} could be read ({dict(errors)}). Name other data."
        )
    values: dict[str, float] = {EMBEDDED: embedded}
    if images_per_s:  # not if an earlier call embedded all of them
        values["images_per_s"] = images_per_s
    for cause, number in errors.items():
        values[f"unreadable: {cause}"] = number
    rows = [Row(model=options.model, metric=name, value=value) for name, value in values.items()]
    return Results(make_meta(" ".join(options.data), None), rows)


def write_index(
    shards: Sequence[Path], folder: Path, model: str, model_id: str | None = None
) -> int:
    """Write an index from Parquet files of embeddings. It replaces the folder when it is complete.

    Images with the same content share a vector. Of several images with the same name the first is kept; the index
    lists the others with the images that could not be read.

    Args:
        shards: Parquet files with the columns of `schema`.
        folder: Folder of the index.
        model: Folder of the model that encoded the images.
        model_id: Hub id of the model. Default: its folder.

    Returns:
        Number of images in the index.

    Raises:
        OSError: The disk is full or cannot be written. The previous index stays.
    """
    with scratch_folder(folder) as scratch:
        batches = (
            _images(batch)
            for path in shards
            for batch in pq.ParquetFile(path).iter_batches(ROW_GROUP)
        )
        num_images = bulk.write_index(scratch, model, batches, model_id)
        replace_folder(scratch, folder)
    return num_images


def _images(batch: pa.RecordBatch) -> list[bulk.EmbeddedImage]:
    """Rows of a shard."""
    column = batch["vector"]
    vectors = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    rows = batch.drop_columns(["vector"]).to_pylist()
    return [
        bulk.EmbeddedImage(vector=vector, **row) for row, vector in zip(rows, vectors, strict=True)
    ]
