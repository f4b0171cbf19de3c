"""Embed the images of shards into Parquet files, each of which is complete or absent."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from training.data.reader import rules_for
from training.data.shards import Shards, get_cell
from training.edge.formats import ExportOptions
from training.edge.gate import encode_cells, encode_names, judged
from training.edge.gate_data import GateData
from training.edge.verdict import Encoded, Verdict, compare
from training.embedding import EmbedOptions
from training.embedding.embedder import Embedder, default_device, schema
from training.teachers import DualEncoder
from training.utils.files import atomic_write, sync

KEY = b"key"
ROW_GROUP = 8192  # rows in memory at once

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoding:
    """How images are encoded, which is the same in every process that takes part.

    Args:
        model: Digest of the files that prepare and encode images.
        encoder: File that encodes, or the precision of the weights.
        dtype: Precision of the weights on an accelerator.
    """

    model: str
    encoder: str
    dtype: torch.dtype


@dataclass(frozen=True)
class Job:
    """What the shards of a collection become.

    Args:
        options: Options of the command.
        folder: Folder of the files of embeddings.
        shards: Images in shards.
        key: Digest of all that the embeddings depend on, which each file states.
        encoding: How images are encoded.
    """

    options: EmbedOptions
    folder: Path
    shards: Shards
    key: bytes
    encoding: Encoding


def find_encoding(options: EmbedOptions) -> Encoding:
    """Find out how this process encodes images, in bfloat16 if an accelerator passes the gate with it.

    Raises:
        ValueError: The model or the data of the gate cannot be used.
    """
    device = default_device()
    is_half = device.type != "cpu" and passes_in_half_precision(options, device)
    dtype = torch.bfloat16 if is_half else torch.float32
    embedder = _open_embedder(options, dtype)
    return Encoding(embedder.digest(), embedder.encoder, dtype)


def passes_in_half_precision(options: EmbedOptions, device: torch.device) -> bool:
    """Whether the image tower may run in bfloat16 on a device: compared with float32, with the same text embeddings.

    The reasons against it are logged.

    Raises:
        ValueError: The labeled set of the options cannot be used.
    """
    data = GateData.from_options(
        ExportOptions(
            folder=options.model,
            output_dir=options.output_dir,
            data=options.gate_data,
            class_names=options.class_names,
        ),
        field="gate_data",
    )
    if data.labels is None:
        log.warning(
            "The weights run in float32: the folder of the model names no labeled data to check bfloat16 with. Name "
            "some: --gate_data PATH --class_names NAMES.json"
        )
        return False
    full = DualEncoder.from_pretrained(options.model, device=device)
    reference = Encoded(encode_cells(full, data), encode_names(full, data))
    half = DualEncoder.from_pretrained(options.model, ["vision"], torch.bfloat16, device)
    encoded = replace(reference, images=encode_cells(half, data))
    fields = compare("vision", encoded, reference, data.labels)
    fields |= {"bytes": half.model.get_memory_footprint(), "bytes_share": 0.5}
    verdict = judged(Verdict("bfloat16", "vision", "bfloat16", False, [], **fields))
    log.warning("%s", verdict.line() if verdict.kept else " ".join(verdict.reasons))
    return verdict.kept


def write_shards(job: Job, missing: Iterable[int]) -> Iterator[tuple[int, str | None]]:
    """Embed shards in this process; yield the number of images that are done, and the reason of a shard that fails."""
    writer = ShardWriter(job)
    for number in missing:
        try:
            for count in writer.write(number):
                yield count, None
        except ValueError as error:
            yield 0, str(error)


class ShardWriter:
    """Embeds one shard after the other.

    Args:
        job: What the shards become.
        threads: Number of threads that decode images. Default: all cores.

    Raises:
        ValueError: The model cannot be used, or is not the model of the job.
    """

    def __init__(self, job: Job, threads: int | None = None):
        self.job = job
        self.embedder = _open_embedder(job.options, job.encoding.dtype, threads)
        if (self.embedder.digest(), self.embedder.encoder) != (
            job.encoding.model,
            job.encoding.encoder,
        ):
            raise ValueError(
                f"model: {job.options.model!r} is a different model here, or encodes with {self.embedder.encoder} "
                f"instead of {job.encoding.encoder}. Copy the same folder."
            )
        self.columns = schema(self.embedder.dimension).with_metadata({KEY: job.key})

    def write(self, number: int) -> Iterator[int]:
        """Embed a shard, and yield the number of images in each part that is done.

        Raises:
            ValueError: The shard cannot be read on.
            OSError: The disk is full or cannot be written.
        """
        with atomic_write(path_of(self.job.folder, number)) as scratch:
            with pq.ParquetWriter(scratch, self.columns) as writer:
                for table in self.embedder.tables(self._named(number), self.job.options.batch_size):
                    writer.write_table(table.cast(self.columns), row_group_size=ROW_GROUP)
                    yield len(table)
            sync(scratch)

    def _named(self, number: int) -> Iterator[tuple[str, Any]]:
        """Name and cell of each image of a shard."""
        options = self.job.options
        for row, cells in enumerate(self.job.shards.read(number, 0)):
            cell = cells[options.image_column]
            name = None
            if options.name_column:
                name = get_cell(cells, options.name_column)
            elif isinstance(cell, dict) and cell.get("bytes") is None:
                name = cell.get("path")
            if name is None:
                name = f"{number:05d}/{row:06d}"
            yield str(name), cell


def path_of(folder: Path, number: int) -> Path:
    """Path of the file of a shard."""
    return folder / f"{number:05d}.parquet"


def _open_embedder(
    options: EmbedOptions, dtype: torch.dtype, threads: int | None = None
) -> Embedder:
    rules = rules_for(options.data, options.allow_paths)
    return Embedder(options.model, dtype=dtype, threads=threads, rules=rules)
