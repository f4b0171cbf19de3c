"""A source as a stream of shards: their order, their division among workers, shuffling, and the position in them.

A worker is one decoding process of one training process; workers are numbered over all training processes. A unit is
what a worker reads at once: a shard, or a part of one if there are more workers than shards. In each epoch the units
are shuffled and dealt to the workers in turn, so that no two workers read the same samples.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
from datasets import IterableDataset

from training.data.reader import check_types
from training.data.sampling import BLOCK_STREAM, SHARD_STREAM

READ_SIZE = 16  # rows that are read at once
MAX_BLOCK_BYTES = 256 * 2**20  # encoded images in one block of the shuffling
MAX_EMPTY = 16  # a worker that has read this many times the number of units, all empty, has no rows


MISSING = object()


class RawSample(NamedTuple):
    """An undecoded row and its position in the stream.

    Args:
        row: Row number in all data, made of the source, the shard and the offset in the shard.
        source: Index of its source in the mixture.
        epoch: Epoch of this source and worker.
        unit: Number of units that the worker has read before.
        offset: Index of the sample in the unit.
        cells: Values by column; images are not decoded.
    """

    row: int
    source: int
    epoch: int
    unit: int
    offset: int
    cells: dict[str, Any]


@dataclass(frozen=True)
class StreamPosition:
    """Position of a worker in a source. Checkpoints store it as JSON.

    Args:
        unit: Number of units that the worker had read before the first sample of the current block.
        index: Index of that sample in its unit.
        block: Number of the current block.
        given: Number of samples of the block that were returned.
    """

    unit: int = 0
    index: int = 0
    block: int = 0
    given: int = 0


class Shards:
    """The shards of a stream. Each can be read from any row.

    Args:
        rows: Stream of a source.
        number: Index of the source.
        name: Name of the source, for error messages.
        image_column: Column of the images, which stay undecoded; None in a run without images.
        caption_columns: Columns of the captions, or fields of nested columns such as `json.caption`.

    Raises:
        ValueError: The stream cannot be read, has no rows, or a column is missing.
    """

    def __init__(
        self,
        rows: IterableDataset,
        number: int,
        name: str,
        image_column: str | None,
        caption_columns: Iterable[str],
    ):
        self.number = number
        self.name = name
        try:
            first = next(iter(rows.decode(False) if rows.features else rows), None)
        except Exception as error:  # each file format raises other types
            cause = " ".join(str(error).split())
            raise ValueError(
                f"data: the first row of {name!r} cannot be read ({type(error).__name__}: {cause}). Write or download "
                "the file again."
            ) from error
        if first is None:
            raise ValueError(f"data: {name!r} has no rows.")
        images = [image_column] if image_column else []
        texts = list(caption_columns)
        columns = [*images, *texts]
        for column in columns:
            if get_cell(first, column, MISSING) is MISSING:
                raise ValueError(
                    f"data: {name!r} has no column {column!r}, only {sorted(first)}. Name the right one under data."
                )
        check_types(rows.features, images, texts, name)
        if rows.column_names is not None:
            stored = [column if column in first else column.partition(".")[0] for column in columns]
            rows = rows.select_columns(list(dict.fromkeys(stored)))
            # without features, `datasets` returns cells as they are stored; checking and copying each of them takes
            # as long as decoding a small image
            rows.info.features = None
        self.rows = rows

    def __len__(self) -> int:
        return self.rows.num_shards

    def read(self, shard: int, start: int) -> Iterator[dict[str, Any]]:
        """Read the rows of a shard.

        Args:
            shard: Index of the shard.
            start: First row to read; earlier rows are skipped without decoding.

        Yields:
            Rows as dicts of undecoded cells.

        Raises:
            ValueError: The shard cannot be read.
        """
        rows = self.rows.shard(num_shards=len(self), index=shard)
        # read in batches: row by row, `datasets` would divide the shard among DataLoader workers once more
        batches = (rows.skip(start) if start else rows).iter(batch_size=READ_SIZE)
        try:
            for batch in batches:
                for cells in zip(*batch.values(), strict=True):
                    yield dict(zip(batch, cells, strict=True))
        except Exception as error:  # each file format raises other types
            raise ValueError(
                f"data: shard {shard} of {self.name!r} cannot be read on ({type(error).__name__}: {error}). Fix or "
                "remove it; the last checkpoint is unchanged."
            ) from error


def get_cell(row: dict[str, Any], column: str, default: Any = None) -> Any:
    """Return the value of a column, or of a field of a nested column such as `json.caption`.

    If it is missing, the result is `default`. A field of a nested column that is None is None too.
    """
    if column in row:
        return row[column]
    head, _, rest = column.partition(".")
    inner = row.get(head, {})
    if not rest or not isinstance(inner, dict):
        return default if inner is not None else None
    return get_cell(inner, rest, default)


def read_samples(
    shards: Shards,
    key: tuple[int, ...],
    worker: int,
    num_workers: int,
    unit: int = 0,
    index: int = 0,
) -> Iterator[RawSample]:
    """Read the undecoded samples of one worker from one source, epoch after epoch without end.

    Takes the arguments of `shuffled_samples`; `unit` and `index` are the position of the first sample.

    Raises:
        ValueError: The worker finds no samples.
    """
    # if there are more workers than shards, a unit is every num_parts-th sample of a shard
    num_parts = -(-num_workers // len(shards))
    num_units = len(shards) * num_parts
    num_empty = 0
    for number in count(unit):
        epoch, position = divmod(worker + number * num_workers, num_units)
        order = np.random.default_rng((*key, SHARD_STREAM, epoch)).permutation(num_units)
        shard, part = divmod(int(order[position]), num_parts)
        start = index if number == unit else 0
        last = start - 1
        rows = islice(shards.read(shard, part + start * num_parts), None, None, num_parts)
        for last, cells in enumerate(rows, start=start):
            row = shards.number << 56 | shard << 32 | (part + last * num_parts)
            yield RawSample(row, shards.number, epoch, number, last, cells)
        num_empty = num_empty + 1 if last < 0 else 0
        if num_empty > MAX_EMPTY * num_units:
            raise ValueError(
                f"data: {shards.name!r} has no rows for {num_workers} decoding processes."
            )


def shuffled_samples(
    shards: Shards,
    key: tuple[int, ...],
    worker: int,
    num_workers: int,
    size: int,
    position: StreamPosition,
) -> Iterator[tuple[RawSample, StreamPosition]]:
    """Read the samples of one worker from one source, shuffled block by block within an epoch.

    While the samples of one block are returned, the next block is read, one sample for each that is returned. At most
    one block is in memory, and only the first block is waited for. It ends at `MAX_BLOCK_BYTES` of encoded images,
    however few samples it has. To resume from a position, the shard up to its first sample and two blocks are read
    again, and nothing is decoded.

    Args:
        shards: Shards of the source.
        key: Integers that key the order of units and blocks, the seed first.
        worker: Index of the worker among all workers of all processes.
        num_workers: Number of all workers of all processes.
        size: Number of samples in a block.
        position: Position to start from.

    Yields:
        Each sample with the position after it.
    """
    reader = read_samples(shards, key, worker, num_workers, position.unit, position.index)
    ahead = next(reader)  # the first sample that is not in a block yet
    following: list[RawSample] = []
    num_bytes = 0  # size of the next block

    def read_ahead() -> bool:
        """Add a sample to the next block; return False if the block is full or its epoch has ended."""
        nonlocal ahead, num_bytes
        is_full = len(following) == size or num_bytes >= MAX_BLOCK_BYTES
        if is_full or (following and following[0].epoch != ahead.epoch):
            return False
        following.append(ahead)
        num_bytes += _encoded_size(ahead)
        ahead = next(reader)
        return True

    for number in count(position.block):
        while read_ahead():
            pass
        first = following[0]
        block = dict(enumerate(following))
        following = []
        num_bytes = 0
        order = np.random.default_rng((*key, worker, BLOCK_STREAM, number)).permutation(len(block))
        for given, index in enumerate(order.tolist(), start=1):
            sample = block.pop(index)
            read_ahead()
            if number > position.block or given > position.given:
                yield sample, StreamPosition(first.unit, first.offset, number, given)


def _encoded_size(sample: RawSample) -> int:
    """Size of the images and files of a sample in bytes, as they are stored."""
    size = 0
    for cell in sample.cells.values():
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(content, bytes):
            size += len(content)
    return size
