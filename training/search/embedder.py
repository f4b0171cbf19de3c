"""Encode images in the way of an index: the same pixels, digests and dates as `dcclip index`."""

import hashlib
import io
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from modeling_dcclip.files_dcclip import FileState
from modeling_dcclip.image_dcclip import ImageError
from modeling_dcclip.indexing_dcclip import num_cores
from modeling_dcclip.modeling_dcclip import DCCLIPVisionModelWithProjection
from modeling_dcclip.photos_dcclip import UnreadablePhotoError, decode_photo
from modeling_dcclip.runtime_dcclip import Runtime
from training.data.images import CellRules, fetch, is_url
from training.search.shards import schema

BATCHES_AHEAD = 2  # batches that are prepared while one is encoded
NOT_FINITE = "embedding is not finite"


class Encoder(Protocol):
    """Encodes images in two steps: one for each image, in threads, and one for a batch."""

    name: str

    def prepare(self, image: Image.Image) -> np.ndarray:
        """Do the work that each image needs."""
        ...

    def encode(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """Make embeddings of prepared images, (B, D) float32, L2-normalised."""
        ...


class GraphEncoder:
    """The ONNX file on the CPU. Each image is encoded alone, so its embedding equals that of an index bit by bit.

    Args:
        runtime: The model.
    """

    def __init__(self, runtime: Runtime):
        self.runtime, self.name = runtime, runtime.file("vision").name
        runtime.encode_images([])  # loads the graph before threads share it

    def prepare(self, image: Image.Image) -> np.ndarray:
        """Encode an image, (D,) float32."""
        return self.runtime.encode_images([image])[0]

    def encode(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """Stack embeddings, (B, D) float32."""
        return np.stack(prepared)


class WeightsEncoder:
    """The weights in float32, on any device.

    Args:
        runtime: The model.
        device: Device of the weights.

    Raises:
        ValueError: The folder has no weights.
    """

    def __init__(self, runtime: Runtime, device: torch.device):
        self.preprocess, self.device, self.name = runtime.preprocess, device, "float32"
        try:
            model = DCCLIPVisionModelWithProjection.from_pretrained(runtime.folder, dtype=torch.float32)
        except OSError as error:
            raise ValueError(
                f"model: {str(runtime.folder)!r} has no weights ({error}). Name a finished model."
            ) from error
        self.model = model.eval().to(device)

    def prepare(self, image: Image.Image) -> np.ndarray:
        """Preprocess an image, (3, S, S) float32."""
        return self.preprocess(image)

    @torch.inference_mode()
    def encode(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """Encode preprocessed images, (B, D) float32, L2-normalised."""
        pixels = torch.from_numpy(np.stack(prepared)).to(self.device)  # (B, 3, S, S)
        return torch.nn.functional.normalize(self.model(pixels).pooler_output.float(), dim=-1).cpu().numpy()


@dataclass(frozen=True)
class Prepared:
    """One image that was read, or not.

    Args:
        name: Name of the image; None if it could not be read and has none.
        pixels: Result of `Encoder.prepare`; None if the image could not be read.
        error: Short cause for which it could not be read.
        digest: Digest of the file, 16 bytes.
        size: Size of the file in bytes.
        mtime_ns: Time of its last modification in nanoseconds since 1970; 0 if it is no file.
        taken: Date by EXIF.
    """

    name: str | None
    pixels: np.ndarray | None = None
    error: str | None = None
    digest: bytes | None = None
    size: int | None = None
    mtime_ns: int | None = None
    taken: str | None = None


class Embedder:
    """Embeds the images of a batch of rows. It is a callable class for `map_batches` of Ray Data.

    Args:
        model: Folder of a finished model. On a CPU its ONNX file is used if it has one, else its weights.
        image_column: Column of the images: encoded bytes, paths, or cells of `datasets` with `bytes` and `path`.
        name_column: Column with the name of each image. Default: the path of its file, else the digest of its content.
        device: Device of the weights. Default: the accelerator if there is one.
        threads: Number of threads that decode images. Default: all cores.
        rules: Which images may be opened. Default: all, also files and URLs.

    Raises:
        ValueError: The folder is no finished model.
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
        self.rules = rules or CellRules(allow_urls=True, allow_paths=True)
        self.runtime = Runtime(model, threads=1)
        self.dimension = self.runtime.dimension  # fewer than `projection_dim` if the config has `truncate_dim`
        self.encoder = open_encoder(self.runtime, torch.device(device or _accelerator()))
        self._pool = ThreadPoolExecutor(threads or num_cores(), "embed")

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> pa.Table:
        """Embed a batch.

        Args:
            batch: Columns by name, each with B values.

        Returns:
            B rows with the columns of `training.search.shards.schema`, in order.
        """
        names = batch[self.name_column] if self.name_column else [None] * len(batch[self.image_column])
        named = zip(names, batch[self.image_column], strict=True)
        return self._table([self._pool.submit(self._prepare, name, cell) for name, cell in named])

    def tables(self, named: Iterable[tuple[str | None, Any]], batch_size: int) -> Iterator[pa.Table]:
        """Embed images in order, batch by batch. Threads read the next batches while one is encoded.

        Args:
            named: Name and cell of each image.
            batch_size: Number of images in a batch.

        Yields:
            Tables with the columns of `training.search.shards.schema`.
        """
        images = iter(named)
        ahead: deque[list[Future[Prepared]]] = deque()
        while batch := [self._pool.submit(self._prepare, *image) for image in islice(images, batch_size)]:
            ahead.append(batch)
            if len(ahead) > BATCHES_AHEAD:
                yield self._table(ahead.popleft())
        while ahead:
            yield self._table(ahead.popleft())

    def _prepare(self, name: str | None, cell: Any) -> Prepared:
        """Read one image, in a thread."""
        cell = self.rules(cell)
        if name is None and isinstance(cell, dict) and cell.get("bytes") is None:
            name = cell.get("path")
        try:
            content, mtime_ns = _read(cell)
        except UnreadablePhotoError as error:
            return Prepared(name, error=error.cause)
        digest = hashlib.blake2b(content, digest_size=16).digest()
        name = name or digest.hex()
        try:
            taken, image = decode_photo(io.BytesIO(content), self.runtime.preprocess.edge)
        except UnreadablePhotoError as error:
            return Prepared(name, None, error.cause, digest, len(content), mtime_ns)
        return Prepared(name, self.encoder.prepare(image), None, digest, len(content), mtime_ns, taken)

    def _table(self, batch: Sequence[Future[Prepared]]) -> pa.Table:
        prepared = [future.result() for future in batch]
        vectors = np.zeros((len(prepared), self.dimension), np.float32)
        if pixels := [each.pixels for each in prepared if each.pixels is not None]:
            vectors[[each.pixels is not None for each in prepared]] = self.encoder.encode(pixels)
        finite = [bool(np.isfinite(vector).all()) for vector in vectors]
        errors = [each.error if is_finite else NOT_FINITE for each, is_finite in zip(prepared, finite, strict=True)]
        vectors[[error is not None for error in errors]] = 0  # no nulls: pyarrow < 26 cannot read them in Parquet
        columns = {
            "name": [each.name for each in prepared],
            "vector": pa.FixedSizeListArray.from_arrays(vectors.ravel(), self.dimension),
            "error": errors,
            "digest": [each.digest for each in prepared],
            "size": [each.size for each in prepared],
            "mtime_ns": [each.mtime_ns for each in prepared],
            "taken": [each.taken for each in prepared],
        }
        return pa.table(columns, schema(self.dimension))


def open_encoder(runtime: Runtime, device: torch.device) -> Encoder:
    """The ONNX file of a model on a CPU, if it has one; else its weights.

    Raises:
        ValueError: The folder has neither.
    """
    if device.type == "cpu" and any(runtime.folder.glob("onnx/vision_model*.onnx")):
        return GraphEncoder(runtime)
    return WeightsEncoder(runtime, device)


def _accelerator() -> torch.device:
    # `current_accelerator` names CUDA in a build for it, even on a machine without a GPU
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device or torch.device("cpu")


def _read(cell: dict | str | None) -> tuple[bytes, int]:
    """Content of an image, and time of the modification of its file."""
    if isinstance(cell, str):  # the cause for which it may not be opened
        raise UnreadablePhotoError(cell, is_lasting=False)
    content, path = (cell.get("bytes"), cell.get("path")) if cell is not None else (None, None)
    if content is not None:
        return content, 0
    if not path:
        raise UnreadablePhotoError("no image", is_lasting=False)
    try:
        if is_url(path):
            return fetch(path), 0
        with open(path, "rb") as file:
            return file.read(), FileState.of(os.fsencode(path), os.fstat(file.fileno())).mtime_ns
    except ImageError as error:
        raise UnreadablePhotoError("the URL cannot be read", is_lasting=False) from error
    except OSError as error:
        raise UnreadablePhotoError((error.strerror or type(error).__name__).lower(), is_lasting=False) from error
