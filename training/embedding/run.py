"""Embed the missing shards of a collection with several processes, and write an index.

The processes divide the missing shards among them. Each shard becomes a Parquet file, which is complete or absent, so
an interrupted run continues with the others.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from modeling_dcclip.search.catalog import Catalog
from modeling_dcclip.search.files import FileState
from modeling_dcclip.search.index import Index
from modeling_dcclip.search.indexing import Outcome, enter, num_cores
from modeling_dcclip.search.photos import UnreadablePhotoError
from training.data.images import rules_for
from training.data.reader import digest_sources, image_roots, load_source, open_stream
from training.data.shards import Shards, get_cell
from training.embedding import EmbedOptions
from training.embedding.embedder import Embedder, schema
from training.utils.files import atomic_write, replace_folder, scratch_folder, sync
from training.utils.keys import digest_key, make_key
from training.utils.output import claim_folder
from training.utils.process import find_processes
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

log = logging.getLogger(__name__)

SHARDS, INDEX, KEY = "shards", "index", b"key"
FILES = (SHARDS, INDEX, RESULTS_FILE)
ROW_GROUP = 8192  # rows in memory at once
REPEATED = "another image has the same name"


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
    state, folder = find_processes(), Path(options.output_dir)
    shards, num_rows = _open(options)
    roots = image_roots(options.data)
    rules = rules_for(options.data, options.allow_paths)
    cores = max(1, num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    embedder = Embedder(options.model, device=state.device, threads=cores, rules=rules)
    with ExitStack() as claimed:
        if state.is_main_process:
            inputs = {"model": options.model}
            claimed.enter_context(
                claim_folder(folder, FILES, command="embed", inputs=inputs, flag=None)
            )
        state.wait_for_everyone()
        paths = [folder / SHARDS / f"{number:05d}.parquet" for number in range(len(shards))]
        missing = [number for number, path in enumerate(paths) if not path.exists()]
        key = ShardKey(
            options,
            model=embedder.digest(),
            encoder=embedder.encoder,
            data=digest_sources(options.data, with_states=not options.streaming),
            num_shards=len(shards),
            num_rows=num_rows if roots is None else None,
        )
        columns = schema(embedder.dimension).with_metadata({KEY: digest_key(make_key(key))})
        if options.format == "index":
            embedder.runtime.file("text")  # a model without it cannot search the index
        for path in {*paths} - {paths[number] for number in missing}:
            if (pq.read_schema(path).metadata or {}).get(KEY) != columns.metadata[KEY]:
                raise ValueError(
                    f"output_dir: {str(path)!r} has embeddings of other data or options, or of a different model. "
                    "Choose a different folder."
                )
        state.wait_for_everyone()  # until all have seen the same files
        began = time.monotonic()
        mine = {
            number: paths[number] for number in missing[state.process_index :: state.num_processes]
        }
        failures = gather_object(_embed_shards(mine, shards, columns, options, embedder, state))
        if not state.is_main_process:
            return None
        if failures:
            raise OSError(
                f"data: {len(failures)} of {len(missing)} shards could not be read. The first: {failures[0]} Finished "
                "shards are kept: run the same command again."
            )
        results = _count(
            options, paths, [paths[number] for number in missing], time.monotonic() - began
        )
        if options.format == "index":
            write_index(paths, folder / INDEX, options.model, options.model_id)
        results.write(folder)
    return results


def _open(options: EmbedOptions) -> tuple[Shards, int | None]:
    """The images of a source in shards, and their number; None for a stream."""
    count = None
    if options.streaming:
        stream = open_stream(options.data, options.split, options.subset)
    else:
        rows = load_source(options.data, options.split, options.subset)
        count = len(rows)
        stream = rows.to_iterable_dataset(num_shards=max(1, -(-count // options.rows_per_shard)))
    names = [options.name_column] if options.name_column else []
    return Shards(stream, 0, " ".join(options.data), options.image_column, names), count


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
        num_rows: Number of rows, where the data are a function; None otherwise.
    """

    options: EmbedOptions
    model: str
    encoder: str
    data: str
    num_shards: int
    num_rows: int | None


def _embed_shards(
    paths: Mapping[int, Path],
    shards: Shards,
    columns: pa.Schema,
    options: EmbedOptions,
    embedder: Embedder,
    state: PartialState,
) -> list[str]:
    """Embed the shards of this process, by number, and return why some could not be read."""
    failures = []
    name = f"images of process {state.process_index + 1} of {state.num_processes}"
    with tqdm(desc=name, unit="image", disable=not state.is_main_process) as progress:
        for number, path in paths.items():
            tables = embedder.tables(_named_cells(shards, number, options), options.batch_size)
            try:
                with atomic_write(path) as scratch:
                    with pq.ParquetWriter(scratch, columns) as writer:
                        for table in tables:
                            writer.write_table(table.cast(columns), row_group_size=ROW_GROUP)
                            progress.update(len(table))
                    sync(scratch)
            except ValueError as error:
                log.warning("%s", error)
                failures.append(str(error))
    return failures


def _named_cells(shards: Shards, number: int, options: EmbedOptions) -> Iterator[tuple[str, Any]]:
    """Name and cell of each image of a shard."""
    for row, cells in enumerate(shards.read(number, 0)):
        cell = cells[options.image_column]
        if options.name_column:
            name = get_cell(cells, options.name_column)
            if not isinstance(name, str | None):
                raise ValueError(
                    f"name_column: {options.name_column!r} has {name!r}. Name a column of strings."
                )
        elif isinstance(cell, dict) and cell.get("bytes") is None:
            name = cell.get("path")
        else:
            name = cell if isinstance(cell, str) else None
        yield (f"{number:05d}/{row:06d}" if name is None else name), cell


def _count(
    options: EmbedOptions, shards: Sequence[Path], new: Sequence[Path], seconds: float
) -> Results:
    """Count images and failures, and refuse data without a readable image."""
    errors: Counter[str | None] = Counter()
    for path in shards:
        errors.update(pq.read_table(path, columns=["error"])["error"].to_pylist())
    embedded = errors.pop(None, 0)
    if not embedded:
        causes = ", ".join(f"{cause}: {count}" for cause, count in errors.most_common())
        raise ValueError(
            f"data: no image of {' '.join(options.data)!r} could be read ({causes}). Name other data."
        )
    counts = {"embedded": embedded} | {
        f"unreadable: {cause}": number for cause, number in errors.items()
    }
    if new:
        counts["images_per_s"] = sum(pq.read_metadata(path).num_rows for path in new) / seconds
    results = Results(make_meta(" ".join(options.data), None))
    results.rows += [
        Row(model=options.model, metric=metric, value=value) for metric, value in counts.items()
    ]
    return results


def write_index(
    shards: Sequence[Path], folder: Path, model: str | Path, model_id: str | None = None
) -> int:
    """Write an index from Parquet files of embeddings. It replaces the folder when it is complete.

    Images with the same content share a vector. Of several images with the same name the first is kept; the index
    lists the others with the images that could not be read.

    Args:
        shards: Parquet files with the columns of `schema`, of `training/embed.py` or Ray Data.
        folder: Folder of the index.
        model: Folder of the model that encoded the images.
        model_id: Hub id of the model. Default: its folder.

    Returns:
        Number of images in the index.

    Raises:
        ValueError: The embeddings and the model differ in their number of dimensions.
        OSError: The disk is full or cannot be written. The previous index stays.
    """
    with scratch_folder(folder) as scratch:
        with Index.open(scratch, model, create=True, model_id=model_id) as index, index.writing():
            for path in shards:
                found = pq.read_schema(path).field("vector").type.list_size
                if found != index.space.dimension:
                    raise ValueError(
                        f"model: it has {index.space.dimension} dimensions, and the embeddings in {str(path)!r} have "
                        f"{found}. Name the model that encoded them."
                    )
                for batch in pq.ParquetFile(path).iter_batches(ROW_GROUP):
                    with index.catalog.writing():
                        enter(index.catalog, index.store, list(_outcomes(batch, index.catalog)))
            num_images = len(index)
        replace_folder(scratch, folder)
    return num_images


def _outcomes(batch: pa.RecordBatch, catalog: Catalog) -> Iterator[Outcome]:
    """Rows of a shard in the form of files that were read."""
    column = batch["vector"]
    vectors = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    seen: set[bytes] = set()
    for row, vector in zip(batch.drop_columns(["vector"]).to_pylist(), vectors, strict=True):
        path = os.fsencode(row["name"] or "")
        cause = REPEATED if path in seen or catalog.digest(path) else row["error"]
        if cause is not None:
            yield Outcome(path, failure=UnreadablePhotoError(cause, is_lasting=False))
            continue
        seen.add(path)
        yield Outcome(
            path,
            FileState(path, row["size"], row["mtime_ns"]),
            row["digest"],
            row["taken"],
            [vector],
        )
