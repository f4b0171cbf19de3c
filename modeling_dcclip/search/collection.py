"""Write an index of images that a program embedded: the one function of the product that training uses."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.catalog import Catalog
from modeling_dcclip.search.files import FileState, UnreadablePhotoError
from modeling_dcclip.search.index import Index, open_model
from modeling_dcclip.search.indexing import Outcome, enter
from modeling_dcclip.search.lance import write_lance

if TYPE_CHECKING:
    import pyarrow as pa

REPEATED = "another image has the same name"


def write_index(
    folder: Path,
    batches: "Iterable[pa.RecordBatch]",
    model: Runtime | str | Path,
    model_id: str | None = None,
    use_lance: bool = False,
) -> int:
    """Write an index to an empty folder. It can be searched when the function returns.

    Images with the same content share a vector. Of several images with the same name the first is kept; the index
    lists the others with the images that could not be read. A Lance data set keeps all readable images.

    Args:
        folder: Folder of the index.
        batches: Images in batches, with the columns `name`, `vector` (D float32 of unit length), `error` (null for a
            readable image), `digest` (16 bytes), `size` (bytes), `mtime_ns` (since 1970) and `taken`
            (`YYYY-MM-DD HH:MM:SS` or null).
        model: Model that encoded the images, or its folder.
        model_id: Hub id of the model. Default: its folder.
        use_lance: Whether to write a Lance data set, for many millions of images, instead of a catalog in SQLite.

    Returns:
        Number of images in the index.

    Raises:
        ValueError: The model has no text tower in ONNX, so the index could not be searched.
        OSError: The disk is full or cannot be written.
    """
    if use_lance:
        return write_lance(folder, batches, open_model(model), model_id)
    with (
        Index.open(folder, model, create=True, model_id=model_id) as index,
        index.writing(),
        # one transaction: pages that SQLite has not committed yet need no journal
        index.catalog.writing(),
    ):
        for batch in batches:
            enter(index.catalog, index.store, list(_outcomes(batch, index.catalog)))
        return len(index)


def _outcomes(batch: "pa.RecordBatch", catalog: Catalog) -> Iterator[Outcome]:
    """Images of a batch in the form of files that were read."""
    column: Any = batch["vector"]
    vectors = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    seen: set[bytes] = set()
    for row, vector in zip(batch.drop_columns(["vector"]).to_pylist(), vectors, strict=True):
        path = os.fsencode(row["name"])
        cause = REPEATED if path in seen or catalog.digest(path) else row["error"]
        if cause is not None:
            yield Outcome(path, failure=UnreadablePhotoError(cause, is_lasting=False))
            continue
        seen.add(path)
        state = FileState(path, row["size"], row["mtime_ns"])
        yield Outcome(path, state, row["digest"], row["taken"], [vector])
