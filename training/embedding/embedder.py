"""Encode images exactly as an index does: the same pixels, digests and dates as `dcclip index`."""

import hashlib
import io
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from modeling_dcclip.modeling_dcclip import DCCLIPVisionModelWithProjection
from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.decoding import MEMORY, decode_photo
from modeling_dcclip.search.files import FileState, UnreadablePhotoError, extension_of
from modeling_dcclip.search.indexing import num_cores
from modeling_dcclip.search.photos import open_file
from modeling_dcclip.search.space import WEIGHTS, digest_files
from training.data.images import CellRules

BATCHES_AHEAD = 2  # batches that are prepared while one is encoded
NOT_FINITE = "embedding is not finite"


def schema(dimension: int) -> pa.Schema:
    """Columns of embeddings of D dimensions, one row per image, including images that could not be read.

    Returns:
        name: Unique name of the image: a path, a key, or the numbers of shard and row.
        vector: Embedding, D float32, L2-normalized; zeros if the image could not be read.
        error: Why it could not be read; null otherwise.
        digest: Digest of the file, 16 bytes; null if there is none.
        size: Size of the file in bytes.
        mtime_ns: Last modification of the file, in ns since 1970; 0 if it is not a file.
        taken: Date by EXIF, `YYYY-MM-DD HH:MM:SS`, or null.
    """
    fields = {
        "name": pa.string(),
        "vector": pa.list_(pa.float32(), dimension),
        "error": pa.string(),
    }
    facts = {
        "digest": pa.binary(16),
        "size": pa.int64(),
        "mtime_ns": pa.int64(),
        "taken": pa.string(),
    }
    return pa.schema(fields | facts)


class Embedder:
    """Embeds the images of a batch of rows. It is a callable class for `map_batches` of Ray Data.

    On a CPU, the ONNX file encodes each image alone, so its embedding equals the one in an index bit by bit. On an
    accelerator, or without an ONNX file, the weights encode batches in float32.

    Args:
        model: Folder of a finished model.
        image_column: Column of the images: encoded bytes, paths, or cells of `datasets` with `bytes` and `path`.
        name_column: Column with the name of each image. Default: the path of its file, else the digest of its content.
        device: Device of the weights. Default: the accelerator if there is one.
        threads: Number of threads that decode images. Default: all cores.
        rules: Which images may be opened. Default: all files.

    Raises:
        ValueError: The folder is not a finished model.
    """

    def __init__(
        self,
        model: str | Path,
        image_column: str = "image",
        name_column: str | None = None,
        device: torch.device | str | None = None,
        threads: int | None = None,
        rules: CellRules | None = None,
    ):
        self.image_column, self.name_column = image_column, name_column
        self.rules = rules or CellRules(allow_paths=True)
        self.runtime = Runtime(model, threads=1)
        self.dimension = (
            self.runtime.dimension
        )  # fewer than `projection_dim` if the config has `truncate_dim`
        # `current_accelerator` names CUDA in a build for it, even on a machine without a GPU
        accelerator = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        self.device = torch.device(device or accelerator or "cpu")
        self.weights: DCCLIPVisionModelWithProjection | None = None
        if self.device.type == "cpu" and any(self.runtime.folder.glob("onnx/vision_model*.onnx")):
            self.encoder = self.runtime.file("vision").name
            self.runtime.encode_images([])  # loads the graph before threads share it
        else:
            self.encoder = "float32"
            try:
                weights = DCCLIPVisionModelWithProjection.from_pretrained(
                    self.runtime.folder, dtype=torch.float32
                )
            except OSError as error:
                raise ValueError(
                    f"model: {str(model)!r} has no weights ({error}). Name a finished model."
                ) from error
            self.weights = weights.eval().to(self.device)
        self._pool = ThreadPoolExecutor(threads or num_cores(), "embed")

    def digest(self) -> str:
        """Digest of the files that prepare and encode images."""
        folder = self.runtime.folder
        encoders = sorted(folder.glob(WEIGHTS)) if self.weights else [self.runtime.file("vision")]
        return digest_files([*encoders, folder / "preprocessor_config.json"])

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> pa.Table:
        """Embed a batch of columns by name, as a table with the columns of `schema`, in order."""
        cells = batch[self.image_column]
        names = batch[self.name_column] if self.name_column else [None] * len(cells)
        tables = self.tables(zip(names, cells, strict=True), len(cells))
        return pa.concat_tables([schema(self.dimension).empty_table(), *tables])

    def tables(
        self, named: Iterable[tuple[str | None, Any]], batch_size: int
    ) -> Iterator[pa.Table]:
        """Embed images in order, batch by batch. Threads read the next batches while one is encoded.

        Yields:
            Tables with the columns of `schema`.
        """
        images = iter(named)
        ahead: deque[list[Future[dict[str, Any]]]] = deque()
        while batch := [
            self._pool.submit(self._prepare, *image) for image in islice(images, batch_size)
        ]:
            ahead.append(batch)
            if len(ahead) > BATCHES_AHEAD:
                yield self._table(ahead.popleft())
        while ahead:
            yield self._table(ahead.popleft())

    def _prepare(self, name: str | None, cell: Any) -> dict[str, Any]:
        """Read one image, in a thread: columns of its row, with the embedding or the pixels as `vector`."""
        with MEMORY.scope():
            return self._row(name, cell)

    def _row(self, name: str | None, cell: Any) -> dict[str, Any]:
        cell = self.rules(cell)
        if name is None and isinstance(cell, dict) and cell.get("bytes") is None:
            name = cell.get("path")
        row: dict[str, Any] = {"name": name}
        try:
            content, row["mtime_ns"] = _read(cell)
            digest = hashlib.blake2b(content, digest_size=16).digest()
            row |= {"name": name or digest.hex(), "digest": digest, "size": len(content)}
            row["taken"], image = decode_photo(
                io.BytesIO(content),
                self.runtime.preprocess.edge,
                extension=extension_of(os.fsencode(name or "")),
            )
        except UnreadablePhotoError as error:
            return row | {"error": error.cause}
        if self.weights is not None:
            return row | {"vector": self.runtime.preprocess(image)}
        try:
            return row | {"vector": self.runtime.encode_images([image])[0]}
        except ValueError:  # perhaps of this image alone
            return row | {"error": NOT_FINITE}

    @torch.inference_mode()
    def _encode(self, vectors: list[np.ndarray]) -> np.ndarray:
        """Embeddings (B, D) float32 from embeddings, or from preprocessed images (3, S, S)."""
        if self.weights is None:
            return np.stack(vectors)
        pixels = torch.from_numpy(np.stack(vectors)).to(self.device)  # (B, 3, S, S)
        return (
            torch.nn.functional.normalize(self.weights(pixels).image_embeds.float(), dim=-1)
            .cpu()
            .numpy()
        )

    def _table(self, batch: Sequence[Future[dict[str, Any]]]) -> pa.Table:
        rows = [future.result() for future in batch]
        vectors = np.zeros((len(rows), self.dimension), np.float32)
        if readable := [number for number, row in enumerate(rows) if "vector" in row]:
            vectors[readable] = self._encode([rows[number]["vector"] for number in readable])
        for row, vector in zip(rows, vectors, strict=True):
            if not np.isfinite(vector).all():
                row["error"], vector[:] = NOT_FINITE, 0
        columns: dict[str, Any] = {
            name: [row.get(name) for row in rows] for name in schema(self.dimension).names
        }
        # zeros instead of nulls: pyarrow < 26 cannot read nulls of this type in Parquet
        columns["vector"] = pa.FixedSizeListArray.from_arrays(vectors.ravel(), self.dimension)
        return pa.table(columns, schema(self.dimension))


def _read(cell: dict | str | None) -> tuple[bytes, int]:
    """Content of an image, and time of the last modification of its file."""
    if isinstance(cell, str):  # why it may not be opened
        raise UnreadablePhotoError(cell, is_lasting=False)
    content, path = (cell.get("bytes"), cell.get("path")) if cell is not None else (None, None)
    if content is not None:
        return content, 0
    if not path:
        raise UnreadablePhotoError("no image", is_lasting=False)
    with open_file(os.fsencode(path)) as file:
        return file.read(), FileState.of(os.fsencode(path), os.fstat(file.fileno())).mtime_ns
