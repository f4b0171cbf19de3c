"""Write an index of images that were embedded elsewhere: the one file of the product that training/ imports."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.index.catalog import Catalog
from modeling_dcclip.search.index.index import Index, open_model
from modeling_dcclip.search.index.indexing import EmbeddedImage, Outcome, enter
from modeling_dcclip.search.index.lance import DIMENSIONS_PER_BYTE, write_lance
from modeling_dcclip.search.photos.decoding import date_taken
from modeling_dcclip.search.photos.files import FileState, content_digest
from modeling_dcclip.search.photos.photos import UnreadablePhotoError

REPEATED = "another image has the same name"


def describe(content: bytes) -> tuple[bytes, str | None]:
    """Digest of an image file, 16 bytes, and its date by EXIF, `YYYY-MM-DD HH:MM:SS`, or None, as in an index."""
    digest = content_digest(io.BytesIO(content))
    with suppress(Exception), Image.open(io.BytesIO(content)) as image:  # damaged metadata
        return digest, date_taken(image)
    return digest, None


def check_model(model: str | Path, use_lance: bool):
    """Check, before images are encoded, that their index can be written and searched.

    Raises:
        ValueError: The model has no exported text tower, or Lance cannot index vectors of its dimension.
    """
    runtime = Runtime(model)
    runtime.file("text")
    if use_lance and runtime.dimension % DIMENSIONS_PER_BYTE:
        raise ValueError(
            f"format: lance indexes vectors with a multiple of {DIMENSIONS_PER_BYTE} dimensions, and the model "
            f"{str(model)!r} has {runtime.dimension}. Choose index, or parquet for a search engine of your own."
        )


def write_index(
    folder: Path,
    model: str | Path,
    batches: Iterable[Sequence[EmbeddedImage]],
    model_id: str | None = None,
    use_lance: bool = False,
) -> int:
    """Write a new index of embedded images.

    Images with the same content share a vector. Of several images with the same name the first is kept; the index
    lists the others with the images that could not be read. A Lance data set keeps all readable images.

    Args:
        folder: Folder of the index, which has no index yet.
        model: Folder of the model that encoded the images.
        batches: Images, as many at once as fit into memory.
        model_id: Hub id of the model. Default: its folder.
        use_lance: Whether to write a Lance data set, for many millions of images, instead of a catalog in SQLite.

    Returns:
        Number of images in the index.

    Raises:
        OSError: The disk is full or cannot be written.
    """
    if use_lance:
        return write_lance(folder, batches, open_model(model), model_id)
    with Index.open(folder, model, create=True, model_id=model_id) as index, index.writing():
        with index.catalog.writing():  # one transaction: new pages need no journal
            for batch in batches:
                enter(index.catalog, index.store, list(_outcomes(batch, index.catalog)))
        index.hubs.write(index.bank, index.nouns)
        return len(index)


def _outcomes(batch: Sequence[EmbeddedImage], catalog: Catalog) -> Iterator[Outcome]:
    """Embedded images in the form of files that were read."""
    seen: set[bytes] = set()
    for image in batch:
        path = os.fsencode(image.name)
        cause = REPEATED if path in seen or catalog.digest(path) else image.error
        if cause is not None:
            yield Outcome(path, failure=UnreadablePhotoError(cause, is_lasting=False))
            continue
        seen.add(path)
        state = FileState(path, image.size, image.mtime_ns)
        yield Outcome(path, state, image.digest, image.taken, [image.vector])
