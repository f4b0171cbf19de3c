"""Parquet files of embeddings. Each row is one image, also one that could not be read.

| Column   | Type                        | Content |
| name     | string                      | Unique name of the image: a path, a key, or the numbers of shard and row |
| vector   | fixed-size list of D float32 | Embedding, L2-normalised; zeros if the image could not be read |
| error    | string                      | Why it could not be read; null otherwise |
| digest   | 16 bytes                    | Digest of the file's content; null if there is no content |
| size     | int64                       | Size of the file in bytes |
| mtime_ns | int64                       | Last modification of the file, in ns since 1970; 0 if it is no file |
| taken    | string                      | Date by EXIF, `YYYY-MM-DD HH:MM:SS`, or null |
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from training.utils.files import atomic_write, sync

ROW_GROUP = 8192  # rows that are in memory at once


def schema(dimension: int) -> pa.Schema:
    """Columns of a shard.

    Args:
        dimension: Number of dimensions D of the embeddings.
    """
    return pa.schema(
        {
            "name": pa.string(),
            "vector": pa.list_(pa.float32(), dimension),
            "error": pa.string(),
            "digest": pa.binary(16),
            "size": pa.int64(),
            "mtime_ns": pa.int64(),
            "taken": pa.string(),
        }
    )


def write_shard(path: Path, tables: Iterable[pa.Table], dimension: int):
    """Write a shard: the file is complete or absent.

    Args:
        path: Path of the file.
        tables: Rows with the columns of `schema`, in order.
        dimension: Number of dimensions of the embeddings.

    Raises:
        OSError: The disk is full or cannot be written.
    """
    with atomic_write(path) as scratch:
        with pq.ParquetWriter(scratch, schema(dimension)) as writer:
            waiting: list[pa.Table] = []
            for table in tables:
                waiting.append(table)
                if sum(map(len, waiting)) >= ROW_GROUP:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
        sync(scratch)


def count_errors(shards: Iterable[Path]) -> Counter[str | None]:
    """Number of images by the cause for which they could not be read; those that were embedded by None."""
    counts: Counter[str | None] = Counter()
    for path in shards:
        for batch in pq.ParquetFile(path).iter_batches(columns=["error"]):
            counts.update(batch["error"].to_pylist())
    return counts


def count_rows(shards: Iterable[Path]) -> int:
    """Number of rows of all shards."""
    return sum(pq.read_metadata(path).num_rows for path in shards)
