"""Encode images exactly as an index does: the same pixels, digests and dates as `dcclip index`."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from modeling_dcclip.image_dcclip import map_ahead
from modeling_dcclip.modeling_dcclip import DCCLIPVisionModelWithProjection
from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.index.bulk import describe
from training.data.images import UNDECODABLE, embedded_cell
from training.data.reader import CellRules
from training.teachers.lineage import digest_folder
from training.utils.keys import Digest, digest_file
from training.utils.process import num_cores

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


class Embedder:
    """Embeds images, and says of each that cannot be read why.

    An instance takes a batch of columns and returns a table, as `map_batches` of Ray Data, `datasets.map` and Daft
    call a function. On a CPU, the ONNX file encodes each image alone, so its embedding equals the one in an index bit
    by bit. On an accelerator, or without an ONNX file, the weights encode batches.

    Args:
        model: Folder of a finished model.
        image_column: Column of the images in a batch: encoded bytes, paths, or cells of `datasets` with `bytes` and
            `path`.
        name_column: Column with the name of each image. Default: the path of its file, else the digest of its content.
        dtype: Precision of the weights; `passes_in_half_precision` tells whether bfloat16 is accurate enough.
        threads: Number of threads that decode images. Default: all cores.
        rules: Which images may be opened. Default: all files.

    Raises:
        ValueError: The folder is not a finished model.
    """

    def __init__(
        self,
        model: str,
        image_column: str = "image",
        name_column: str | None = None,
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
        rules: CellRules | None = None,
    ):
        # another process loads the model anew
        self._arguments = (model, image_column, name_column, dtype, threads, rules)
        self.image_column = image_column
        self.name_column = name_column
        self.threads = threads or num_cores()
        self.rules = rules or CellRules(allow_paths=True)
        self.device = default_device()
        self.runtime = Runtime(model, threads=1)
        # fewer than `projection_dim` if the config has `truncate_dim`
        self.dimension = self.runtime.dimension
        self.weights: DCCLIPVisionModelWithProjection | None = None
        if self.device.type == "cpu" and any(self.runtime.folder.glob("onnx/vision_model*.onnx")):
            self.encoder = self.runtime.file("vision").name
            self.runtime.encode_images([])  # loads the graph before threads share it
            return
        self.encoder = str(dtype).removeprefix("torch.")
        try:
            weights = DCCLIPVisionModelWithProjection.from_pretrained(
                self.runtime.folder, dtype=dtype
            )
        except OSError as error:
            raise ValueError(
                f"model: {model!r} has no weights ({error}). Name a finished model."
            ) from error
        self.weights = weights.eval().to(self.device)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the embedder is made of, as for the processes of `datasets.map` and Daft."""
        return Embedder, self._arguments

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> pa.Table:
        """Embed a batch of columns by name: a table with the columns of `schema`, a row per image, in order."""
        cells = batch[self.image_column]
        names = [None] * len(cells) if self.name_column is None else batch[self.name_column]
        tables = self.tables(zip(names, cells, strict=True), max(1, len(cells)))
        return pa.concat_tables([schema(self.dimension).empty_table(), *tables])

    def digest(self) -> str:
        """Digest of the files that prepare and encode images."""
        folder = self.runtime.folder
        encoder = (
            digest_folder(folder) if self.weights else digest_file(self.runtime.file("vision"))
        )
        return Digest().add(encoder, digest_file(folder / "preprocessor_config.json")).hex()

    def tables(
        self, named: Iterable[tuple[str | None, Any]], batch_size: int
    ) -> Iterator[pa.Table]:
        """Embed images with their names in order, as tables with the columns of `schema`."""
        rows = map_ahead(self._row, named, self.threads, 2 * batch_size)
        while batch := list(islice(rows, batch_size)):
            yield self._table(batch)

    def _row(self, image: tuple[str | None, Any]) -> dict[str, Any]:
        """Read one image, in a thread: columns of its row, with the embedding or the pixels as `vector`."""
        name, cell = image
        cell = self.rules(cell)
        path = None
        if isinstance(cell, dict) and cell.get("bytes") is None:
            path = cell.get("path")
        found = embedded_cell(cell)
        if isinstance(found, str):
            return {"name": name or path or "", "error": found}
        content = found["bytes"]
        digest, taken = describe(content)
        row = {
            "name": str(name or path or digest.hex()),
            "digest": digest,
            "size": len(content),
            "mtime_ns": os.stat(path).st_mtime_ns if path else 0,
            "taken": taken,
        }
        try:
            if self.weights is not None:
                row["vector"] = self.runtime.preprocess(content)
            else:
                row["vector"] = self.runtime.encode_images([content])[0]
        except ValueError as error:
            is_damaged = str(error).startswith("image: ")
            row["error"] = UNDECODABLE if is_damaged else NOT_FINITE
        return row

    @torch.inference_mode()
    def _encode(self, vectors: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings (B, D) float32 from embeddings, or from preprocessed images (3, S, S)."""
        if self.weights is None:
            return np.stack(vectors)
        pixels = torch.from_numpy(np.stack(vectors))  # (B, 3, S, S)
        pixels = pixels.to(self.device, self.weights.dtype)
        embeddings = self.weights(pixels).image_embeds.float()
        return torch.nn.functional.normalize(embeddings, dim=-1).cpu().numpy()

    def _table(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        vectors = np.zeros((len(rows), self.dimension), np.float32)
        is_readable = ["vector" in row for row in rows]
        if any(is_readable):
            vectors[is_readable] = self._encode([row["vector"] for row in rows if "vector" in row])
        for row, vector in zip(rows, vectors, strict=True):
            if not np.isfinite(vector).all():
                row["error"] = NOT_FINITE
                vector[:] = 0
        columns = schema(self.dimension)
        table: dict[str, Any] = {}
        for name in columns.names:
            table[name] = [row.get(name) for row in rows]
        # zeros instead of nulls: pyarrow < 26 cannot read nulls of this type in Parquet
        table["vector"] = pa.FixedSizeListArray.from_arrays(vectors.ravel(), self.dimension)
        return pa.table(table, columns)


def default_device() -> torch.device:
    """The accelerator, or the CPU if there is none."""
    if torch.accelerator.is_available() and (found := torch.accelerator.current_accelerator()):
        return found
    return torch.device("cpu")
