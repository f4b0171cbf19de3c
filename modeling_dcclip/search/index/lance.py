"""A collection of images in a Lance data set, for more vectors than a search can scan. Needs the extra `lance`.

Lance finds the nearest vectors by an IVF-RQ index (RaBitQ, https://arxiv.org/abs/2409.09913), and dates and paths by
indexes of their own, so a search reads a small part of the files. It ranks by plain cosine similarity: whether a
photograph fits is not known, and there are no folders to bring up to date.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeling_dcclip.runtime_dcclip import ImageInput, Runtime
from modeling_dcclip.search.index.catalog import File
from modeling_dcclip.search.index.index import Hit, hits_of, open_model
from modeling_dcclip.search.index.indexing import EmbeddedImage
from modeling_dcclip.search.index.space import Space
from modeling_dcclip.search.messages import Message, UserError
from modeling_dcclip.search.photos.files import FileState, date_in_name, search_text
from modeling_dcclip.search.query.dates import end_of, recurring
from modeling_dcclip.search.query.query import Filter, embed_query

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

MANIFESTS = "_versions"  # folder of every Lance data set
INDEXES = "_indices"
CHECKSUMS = "checksums.txt"  # of the files in these two folders, for `sha256sum --check`; Lance verifies none
DESCRIPTION = b"dcclip"  # key of the schema's metadata
VERSION = 1
INDEXED_FROM = 100_000  # vectors; fewer are scanned faster than an index finds them
ROWS_PER_FILE = 2**30
BITS = 2  # of a dimension in the codes that a query scans
DIMENSIONS_PER_BYTE = 8  # of each bit of the codes
PROBES = 20  # partitions of some thousand vectors that a query reads at least
CANDIDATES = 300  # vectors of them whose exact similarity is computed
CACHE_BYTES = 2**30  # Lance keeps the parts of the index that it has read in memory
WEEKEND = (
    "date_part('dow', CAST(substr(date, 1, 10) AS DATE)) IN (0, 6)"  # of `recurring` in Lance's SQL
)
SHOWN = ["path", "date", "digest", "size", "mtime_ns"]


def is_lance(folder: Path) -> bool:
    """Whether a folder is a Lance data set."""
    # unlike `Path.is_dir`, false for a folder that cannot be read, which is then reported as an index
    return os.path.isdir(folder / MANIFESTS)


def write_lance(
    folder: Path,
    batches: Iterable[Sequence[EmbeddedImage]],
    runtime: Runtime,
    model_id: str | None,
) -> int:
    """Write a collection with its indexes to an empty folder; other arguments as in `write_index`."""
    # read at the import: clustering warns of every small part of a large index
    os.environ.setdefault("LANCE_LOG", "error")
    import lance
    import pyarrow as pa

    space = Space.of(runtime, model_id)
    description = {
        "version": VERSION,
        "model": str(runtime.folder.absolute()),
        "space": asdict(space),
    }
    columns = {
        "path": pa.string(),
        "vector": pa.list_(pa.float16(), space.dimension),
        "date": pa.string(),
        "searched": pa.string(),  # what patterns of paths are compared with
        "digest": pa.binary(16),
        "size": pa.int64(),
        "mtime_ns": pa.int64(),
    }
    schema = pa.schema(columns, {DESCRIPTION: json.dumps(description).encode()})
    stored = (_stored(batch, schema) for batch in batches)
    dataset = lance.write_dataset(
        pa.RecordBatchReader.from_batches(schema, stored),
        folder,
        mode="create",
        # a search opens each file that has one of its candidates
        max_rows_per_file=ROWS_PER_FILE,
    )
    dataset.create_scalar_index("date", "BTREE")
    dataset.create_scalar_index("searched", "NGRAM")
    count = dataset.count_rows()
    if count >= INDEXED_FROM:
        dataset.create_index("vector", "IVF_RQ", metric="cosine", num_bits=BITS)
    (folder / CHECKSUMS).write_text("\n".join(_checksums(folder)), encoding="utf-8")
    return count


def _checksums(folder: Path) -> list[str]:
    """SHA-256 and path of each file of the manifest and of the indexes."""
    lines = []
    for path in sorted([*folder.glob(f"{MANIFESTS}/*"), *folder.glob(f"{INDEXES}/*/*")]):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{digest}  {path.relative_to(folder).as_posix()}")
    return lines


def _stored(batch: Sequence[EmbeddedImage], schema: "pa.Schema") -> "pa.RecordBatch":
    """The readable images of a batch, as they are stored."""
    import pyarrow as pa

    images = [image for image in batch if image.error is None]
    paths = [image.name.encode("utf-8", "surrogateescape") for image in images]
    width = schema.field("vector").type.list_size
    vectors = np.array([image.vector for image in images], np.float16).ravel()
    dates = [
        image.taken or date_in_name(path) or str(datetime.fromtimestamp(image.mtime_ns // 10**9))
        for image, path in zip(images, paths, strict=True)
    ]
    columns = {
        "path": [image.name for image in images],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), width),
        "date": dates,
        "searched": list(map(search_text, paths)),
        "digest": [image.digest for image in images],
        "size": [image.size for image in images],
        "mtime_ns": [image.mtime_ns for image in images],
    }
    return pa.RecordBatch.from_pydict(columns, schema)


@contextmanager
def _errors_reported(folder: Path) -> Iterator[None]:
    """Report what Lance raises for damaged or missing files, in several types, as an error that a user can mend."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise _damage(folder, Message(" ".join(str(error).split())[:200])) from error


def _damage(folder: Path, cause: Message) -> UserError:
    return UserError(
        "index: {!r} is damaged ({}). Write it again from its shards: training/embed.py with the same options.",
        str(folder),
        cause,
    )


def _open(folder: Path) -> "lance.LanceDataset":
    """Open the data set, and compare its files with what was written: Lance notices damage late or never.

    The manifest and the indexes are compared by their checksums, the files of vectors by their sizes.

    Raises:
        ValueError: Lance is not installed, or the data set is damaged or was not written by `write_lance`.
    """
    if find_spec("lance") is None:
        raise UserError(
            "index: {!r} is a Lance data set, and Lance is not installed. Run: pip install pylance",
            str(folder),
        )
    import lance

    if not (folder / CHECKSUMS).exists():
        raise _foreign(folder)
    with _errors_reported(folder):
        stored = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
        if changed := {*stored} ^ {*_checksums(folder)}:
            *_, name = min(changed).split(" ")
            raise _damage(folder, Message("{} is missing or damaged", name))
        data = lance.dataset(folder, index_cache_size_bytes=CACHE_BYTES)
        for fragment in data.get_fragments():
            for file in fragment.data_files():
                path = folder / "data" / file.path
                if not path.is_file() or file.file_size_bytes not in (None, path.stat().st_size):
                    raise _damage(folder, Message("{} is missing or damaged", file.path))
    return data


def _describe(folder: Path, data: "lance.LanceDataset") -> tuple[str, Space]:
    """Folder of the model of a collection, and its embedding space."""
    description = json.loads(data.schema.metadata[DESCRIPTION])
    if description["version"] != VERSION:
        raise _foreign(folder)
    return description["model"], Space(**description["space"])


def _foreign(folder: Path) -> UserError:
    return UserError(
        "index: {!r} is a Lance data set that training/embed.py did not write, or a different version of it did. "
        "Embed the collection with --format lance.",
        str(folder),
    )


class LanceIndex:
    """A collection that was opened to search it, with the methods of `Index` that a search needs.

    Args:
        folder: Folder of the data set.
        model: Model to search with, or its folder. Default: the model that embedded the collection.
        model_id: Hub id of the model; see `Index.open`.

    Raises:
        ValueError: Lance is not installed, the folder is damaged or was not written by `training/embed.py`, or the
            model has a different embedding space.
    """

    def __init__(
        self,
        folder: str | Path,
        model: Runtime | str | Path | None = None,
        model_id: str | None = None,
    ):
        self.folder = Path(folder)
        self._data = _open(self.folder)
        self.model_folder, self.space = _describe(self.folder, self._data)
        self.runtime = open_model(self.model_folder if model is None else model)
        space = Space.of(self.runtime, model_id)
        rotations = self.space.rotations(space)
        dimension = self.space.dimension
        if rotations is None or rotations[0] != rotations[1] or space.dimension < dimension:
            raise UserError(
                "model: {!r} (dimensions: {}) has a different embedding space than the collection {!r}, which "
                "belongs to {!r} (dimensions: {}). Search with that model, or embed the collection again: "
                "training/embed.py.",
                space.model,
                space.dimension,
                str(self.folder),
                self.space.model,
                dimension,
            )
        self.runtime = self.runtime.truncated(dimension)

    def __enter__(self) -> "LanceIndex":
        return self

    def __exit__(self, *error: object):
        pass

    def __len__(self) -> int:
        """Number of images."""
        return self._data.count_rows()

    def count(self, chosen: Filter) -> int:
        """Number of images that pass a filter."""
        with _errors_reported(self.folder):
            return self._data.count_rows(_condition(chosen))

    def search(
        self,
        text: str = "",
        *,
        without: Sequence[str] = (),
        images: Sequence[ImageInput | np.ndarray] = (),
        like: Sequence[tuple[int, float | None]] = (),
        top: int = 20,
        skip: int = 0,
        after: str | None = None,
        before: str | None = None,
        path: str | None = None,
        every: str | None = None,
    ) -> list[Hit]:
        """Find images, with the arguments of `Index.search`. Scores are cosine similarities, and every image fits.

        Raises:
            ValueError: As there, or a part of the collection is damaged.
        """
        condition = _condition(Filter(after, before, path, every))
        query: np.ndarray = np.zeros(self.space.dimension, np.float32)
        if text or without or images or not like:
            query = embed_query(self.runtime, text, without, images)
        for number, _ in like:
            query = query + self._vector(number)
        asked = skip + top
        while True:
            nearest = {
                "column": "vector",
                "q": query,
                "k": asked,
                "metric": "cosine",
                # more are read while fewer than k pass the filter
                "minimum_nprobes": PROBES,
                "refine_factor": max(1, CANDIDATES // asked),
            }
            rows = self._read(filter=condition, prefilter=True, nearest=nearest)
            groups: dict[bytes, list[dict[str, Any]]] = {}
            for row in rows:
                groups.setdefault(row["digest"], []).append(row)
            if len(groups) >= skip + top or len(rows) < asked:
                return _hits([*groups.values()][skip : skip + top])
            asked *= 2

    def newest(self, top: int = 20, chosen: Filter | None = None, skip: int = 0) -> list[Hit]:
        """The newest images that pass a filter, newest first, without a score."""
        from lance.dataset import ColumnOrdering

        order = [ColumnOrdering("date", ascending=False), ColumnOrdering("path")]
        condition = _condition(chosen or Filter())
        rows = self._read(filter=condition, order_by=order, limit=top, offset=skip)
        return _hits([[row] for row in rows])

    def id_of(self, path: str) -> int | None:
        """`Hit.id` of an image; None if the collection has no image of this name."""
        # the index of `searched` finds the row
        condition = f"searched LIKE {_quoted(_like(path))} AND path = {_quoted(path)}"
        return next((row["_rowid"] for row in self._read(filter=condition, limit=1)), None)

    def _vector(self, number: int) -> np.ndarray:
        rows = self._read(["vector"], filter=f"_rowid = {number:d}")
        if not rows:
            raise UserError("id: the index has no file {}.", number)
        return np.array(rows[0]["vector"], np.float32)

    def _read(self, columns: Sequence[str] = SHOWN, **options: Any) -> list[dict[str, Any]]:
        columns = [*columns, *(["_distance"] if "nearest" in options else [])]
        with _errors_reported(self.folder):
            return self._data.to_table(columns, with_row_id=True, **options).to_pylist()


def _condition(chosen: Filter) -> str | None:
    """SQL condition of a filter; None without limits."""
    conditions = []
    if chosen.after is not None:
        conditions.append(f"date >= {_quoted(chosen.after)}")
    if chosen.before is not None:
        conditions.append(f"date <= {_quoted(end_of(chosen.before))}")
    if chosen.every is not None:
        conditions.append(WEEKEND if chosen.every == "weekend" else recurring(chosen.every))
    if chosen.path is not None:
        conditions.append(f"searched LIKE {_quoted(_like(chosen.path))}")
    return " AND ".join(conditions) or None


def _like(pattern: str) -> str:
    """Pattern of LIKE for a part of a path, or for a pattern of the whole path with `*` and `?`."""
    escaped = re.sub(r"([\\%_])", r"\\\1", search_text(os.fsencode(pattern)))
    if {*"*?"} & {*escaped}:
        return escaped.replace("*", "%").replace("?", "_")
    return f"%{escaped}%"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _hits(groups: Sequence[Sequence[dict[str, Any]]]) -> list[Hit]:
    files: list[list[File]] = []
    scores: list[float | None] = []
    for group in groups:
        distance = group[0].get("_distance")
        scores.append(None if distance is None else min(1.0, 1 - distance))
        files.append([])
        for row in group:
            state = FileState(os.fsencode(row["path"]), row["size"], row["mtime_ns"])
            files[-1].append(File(row["_rowid"], row["path"], row["_rowid"], row["date"], state))
    return hits_of(files, scores)
