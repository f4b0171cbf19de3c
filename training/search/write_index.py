"""An index from Parquet files of embeddings."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from modeling_dcclip.catalog_dcclip import Catalog
from modeling_dcclip.files_dcclip import FileState
from modeling_dcclip.index_dcclip import Index
from modeling_dcclip.indexing_dcclip import Outcome, enter
from modeling_dcclip.photos_dcclip import UnreadablePhotoError
from training.search.shards import ROW_GROUP
from training.utils.files import replace_folder, scratch_folder

REPEATED = "another image has the same name"


def write_index(
    shards: Sequence[Path],
    folder: Path,
    model: str | Path,
    dtype: str = "int8",
    model_id: str | None = None,
    engine: str = "scan",
) -> int:
    """Write an index. It replaces the folder when it is complete.

    Images with the same content share a vector. Of several images with the same name the first is kept; the index
    lists the others with the images that could not be read.

    Args:
        shards: Parquet files with the columns of `training.search.shards.schema`, of `training/embed.py` or Ray Data.
        folder: Folder of the index.
        model: Folder of the model that encoded the images.
        dtype: How the index stores vectors: `int8`, `float16` or `binary`.
        model_id: Hub id of the model. Default: its folder.
        engine: How the index finds vectors: by an exact `scan`, or `usearch` with a graph.

    Returns:
        Number of images in the index.

    Raises:
        ValueError: The embeddings have another dimension than the model, or USearch is not installed.
        OSError: The disk is full or cannot be written. The previous index stays.
    """
    with scratch_folder(folder) as scratch:
        with Index.open(scratch, model, create=True, dtype=dtype, model_id=model_id) as index:
            with index.writing():
                for path in shards:
                    _check(path, index.space.dimension)
                    for batch in pq.ParquetFile(path).iter_batches(ROW_GROUP):
                        with index.catalog.writing():
                            enter(index.catalog, index.store, list(_outcomes(batch, index.catalog)))
            index.use_engine(engine)
            num_images = len(index)
        replace_folder(scratch, folder)
    return num_images


def _check(path: Path, dimension: int):
    found = pq.read_schema(path).field("vector").type.list_size
    if found != dimension:
        raise ValueError(
            f"model: it has {dimension} dimensions, and the embeddings in {str(path)!r} have {found}. Name the model "
            "that encoded them."
        )


def _outcomes(batch: pa.RecordBatch, catalog: Catalog) -> Iterator[Outcome]:
    """Rows of a shard in the form of files that were read."""
    column = batch["vector"]
    vectors = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    seen: set[bytes] = set()
    for row, vector in zip(batch.drop_columns(["vector"]).to_pylist(), vectors, strict=True):
        path = os.fsencode(row["name"] or "")
        cause = REPEATED if path in seen or catalog.has_file(path) else row["error"]
        if cause is not None:
            yield Outcome(path, failure=UnreadablePhotoError(cause, is_lasting=False))
            continue
        seen.add(path)
        yield Outcome(path, FileState(path, row["size"], row["mtime_ns"]), row["digest"], row["taken"], vector)
