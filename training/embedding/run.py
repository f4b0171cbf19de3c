"""Embed the missing shards of a collection, here or on a Ray cluster, and write an index.

Each shard becomes a Parquet file, which is complete or absent, so an interrupted run continues with the others, on
whichever machines.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from modeling_dcclip.search.index import bulk
from training.data.reader import digest_sources, load_source, open_stream
from training.data.shards import Shards
from training.embedding import EmbedOptions, cluster, shard_writer
from training.embedding.shard_writer import KEY, ROW_GROUP, Job, path_of
from training.utils.cli import one_line
from training.utils.files import replace_folder, scratch_folder
from training.utils.keys import digest_key, make_key
from training.utils.output import claim_folder
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

log = logging.getLogger(__name__)

SHARDS = "shards"
INDEX = "index"
LANCE = "lance"
FILES = (SHARDS, INDEX, LANCE, RESULTS_FILE)
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


def embed(options: EmbedOptions) -> Results:
    """Embed a collection.

    Returns:
        Number of embedded images and of those that could not be read, by cause.

    Raises:
        ValueError: The data or the model cannot be used, the folder has embeddings of other data or of a different
            model, or no image can be read.
        OSError: A shard cannot be read, or the disk is full. Finished shards stay.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "embed: it runs as one process, not under accelerate launch. For several accelerators pass --ray local, "
            "for several machines the address of their Ray cluster."
        )
    folder = Path(options.output_dir)
    if options.format != "parquet":
        bulk.check_model(options.model, options.format == "lance")
    shards, num_rows = _open(options)
    inputs = {"model": options.model}
    inputs |= {f"data {number}": name for number, name in enumerate(options.data)}
    with (
        claim_folder(options.output_dir, FILES, command="embed", inputs=inputs, flag=None),
        cluster.connected(options.ray) if options.ray else nullcontext(),
    ):
        engine = cluster if options.ray else shard_writer
        encoding = engine.find_encoding(options)
        key = ShardKey(
            options,
            model=encoding.model,
            encoder=encoding.encoder,
            data=digest_sources(options.data, with_states=not options.streaming),
            num_shards=len(shards),
            num_rows=num_rows,
        )
        digest = digest_key(make_key(key)).encode()
        paths = [path_of(folder / SHARDS, number) for number in range(len(shards))]
        missing = _missing(paths, digest)
        began = time.monotonic()
        job = Job(options, (folder / SHARDS).absolute(), shards, digest, encoding)
        failures = []
        with tqdm(desc="embed", unit="image") as progress:
            for count, failure in engine.write_shards(job, missing):
                progress.update(count)
                if failure:
                    log.warning("%s", failure)
                    failures.append(failure)
        if failures:
            raise OSError(
                f"data: {len(failures)} of {len(missing)} shards could not be read. The first: {failures[0]} Finished "
                "shards are kept: run the same command again."
            )
        new = sum(pq.read_metadata(paths[number]).num_rows for number in missing)
        results = _count(options, paths, new / (time.monotonic() - began))
        if options.format != "parquet":
            _write_index(options, paths, folder, results)
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


def _missing(paths: Sequence[Path], digest: bytes) -> list[int]:
    """Numbers of the shards without a file; files of other embeddings are refused."""
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
        if written.get(KEY) != digest:
            raise ValueError(
                f"output_dir: {str(path)!r} has embeddings of other data or options, or of a different model. "
                "Choose a different folder."
            )
    return missing


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


def _write_index(options: EmbedOptions, shards: Sequence[Path], folder: Path, results: Results):
    """Write an index of the shards. It replaces an earlier one when it is complete."""
    use_lance = options.format == "lance"
    batches = (
        _images(batch) for path in shards for batch in pq.ParquetFile(path).iter_batches(ROW_GROUP)
    )
    target = folder / (LANCE if use_lance else INDEX)
    with scratch_folder(target) as scratch:
        count = bulk.write_index(scratch, options.model, batches, options.model_id, use_lance)
        replace_folder(scratch, target)
    if repeated := results.values(metric=EMBEDDED)[0] - count:
        metric = f"not in the index: {bulk.REPEATED}"
        results.rows.append(Row(model=options.model, metric=metric, value=repeated))


def _images(batch: pa.RecordBatch) -> list[bulk.EmbeddedImage]:
    """Rows of a shard."""
    column = batch["vector"]
    vectors = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    rows = batch.drop_columns(["vector"]).to_pylist()
    return [
        bulk.EmbeddedImage(vector=vector, **row) for row, vector in zip(rows, vectors, strict=True)
    ]
