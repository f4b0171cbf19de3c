"""A source as a stream of shards: their order, their division among workers, shuffling, and the position in them.

A worker is one decoding process of one training process; workers are numbered over all training processes. A unit is
what a worker reads at once: a shard, or a part of one if there are more workers than shards. In each epoch the units
are shuffled and dealt to the workers in turn, so that no two workers read the same samples.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
from datasets import IterableDataset

from training.data.sampling import BLOCK_STREAM, SHARD_STREAM
from training.data.sources import require_images, require_texts

READ_SIZE = 16  # rows that are read at once
MAX_EMPTY = 16  # a worker that has read this many times the number of units, all empty, has no rows


class RawSample(NamedTuple):
    """An undecoded row and its position in the stream.

    Args:
        row: Row number in all data, made of the source, the shard and the offset in the shard.
        epoch: Epoch of this source and worker.
        unit: Number of units that the worker has read before.
        offset: Index of the sample in the unit.
        cells: Values by column; images are not decoded.
    """

    row: int
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
        ValueError: If the stream has no rows or a column is missing.
    """

    def __init__(
        self,
        rows: IterableDataset,
        number: int,
        name: str,
        image_column: str | None,
        caption_columns: Iterable[str],
    ):
        self.number, self.name = number, name
        first = next(iter(rows.decode(False) if rows.features else rows), None)
        if first is None:
            raise ValueError(f"data: {name!r} has no rows.")
        caption_columns = list(caption_columns)
        columns = [*([image_column] if image_column else []), *caption_columns]
        for column in columns:
            if not has_cell(first, column):
                raise ValueError(
                    f"data: {name!r} has no column {column!r}, only {sorted(first)}. Name the right one under data."
                )
        require_images(rows.features, [image_column] if image_column else [], name)
        require_texts(rows.features, caption_columns, name)
        if rows.column_names is not None:
            rows = rows.select_columns(list(dict.fromkeys(_stored_column(first, column) for column in columns)))
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
            ValueError: If the shard cannot be read.
        """
        rows = self.rows.shard(num_shards=len(self), index=shard)
        # read in batches: row by row, `datasets` would divide the shard among DataLoader workers once more
        batches = (rows.skip(start) if start else rows).iter(batch_size=READ_SIZE)
        try:
            for batch in batches:
                names = list(batch)
                for cells in zip(*batch.values(), strict=True):
                    yield dict(zip(names, cells, strict=True))
        except Exception as error:  # each file format raises other types
            raise ValueError(
                f"data: shard {shard} of {self.name!r} cannot be read on ({type(error).__name__}: {error}). Fix or "
                "remove it; the last checkpoint is unchanged."
            ) from error


def _stored_column(row: dict[str, Any], column: str) -> str:
    """Name of the stored column that holds a column or a field such as `json.caption`."""
    return column if column in row else column.partition(".")[0]


def has_cell(row: dict[str, Any], column: str) -> bool:
    """Check whether a row has a column, or a field of a nested column.

    Args:
        row: Values by column.
        column: Name of a column, or of a field such as `json.caption`. A nested column that is None passes, because
            its fields are not known.
    """
    if column in row:
        return True
    head, _, rest = column.partition(".")
    inner = row.get(head, {})
    return bool(rest) and (inner is None or (isinstance(inner, dict) and has_cell(inner, rest)))


def get_cell(row: dict[str, Any], column: str) -> Any:
    """Return the value of a column, or of a field of a nested column; None if it is missing.

    Args:
        row: Values by column.
        column: Name of a column, or of a field such as `json.caption`.
    """
    if column in row:
        return row[column]
    head, _, rest = column.partition(".")
    inner = row.get(head)
    return get_cell(inner, rest) if rest and isinstance(inner, dict) else None


class ShardReader:
    """Reads the undecoded samples of one worker from one source, epoch after epoch without end.

    Args:
        shards: Shards of the source.
        key: Integers that key the order of units, the seed first.
        worker: Index of the worker among all workers of all processes.
        num_workers: Number of all workers of all processes.
        unit: Number of units that the worker has read before.
        index: Index of the first sample in the first unit.

    Raises:
        ValueError: If the worker finds no samples.
    """

    def __init__(
        self, shards: Shards, key: tuple[int, ...], worker: int, num_workers: int, unit: int = 0, index: int = 0
    ):
        self.shards, self.key, self.worker, self.num_workers = shards, key, worker, num_workers
        self.unit, self.index = unit, index
        # if there are more workers than shards, a unit is every num_parts-th sample of a shard
        self.num_parts = -(-num_workers // len(shards))

    def __iter__(self) -> Iterator[RawSample]:
        num_units, num_empty = len(self.shards) * self.num_parts, 0
        start = self.index
        for unit in count(self.unit):
            epoch, position = divmod(self.worker + unit * self.num_workers, num_units)
            order = np.random.default_rng((*self.key, SHARD_STREAM, epoch)).permutation(num_units)
            shard, part = divmod(int(order[position]), self.num_parts)
            first = part + start * self.num_parts
            index = start - 1
            rows = islice(self.shards.read(shard, first), None, None, self.num_parts)
            for index, cells in enumerate(rows, start=start):
                row = self.shards.number << 56 | shard << 32 | (part + index * self.num_parts)
                yield RawSample(row, epoch, unit, index, cells)
            num_empty = num_empty + 1 if index < 0 else 0
            if num_empty > MAX_EMPTY * num_units:
                raise ValueError(f"data: {self.shards.name!r} has no rows for {self.num_workers} decoding processes.")
            start = 0


class ShuffledStream:
    """The samples of one worker from one source, shuffled block by block within an epoch.

    While the samples of one block are returned, the next block is read, one sample for each that is returned. At most
    one block is in memory, and only the first block is waited for. To resume from a position, the shard up to its
    first sample and two blocks are read again, and nothing is decoded.

    Args:
        shards: Shards of the source.
        key: Integers that key the order of units and blocks, the seed first.
        worker: Index of the worker among all workers of all processes.
        num_workers: Number of all workers of all processes.
        size: Number of samples in a block.
        position: Position to resume from. Default: the beginning.
    """

    def __init__(
        self,
        shards: Shards,
        key: tuple[int, ...],
        worker: int,
        num_workers: int,
        size: int,
        position: StreamPosition | None = None,
    ):
        position = position or StreamPosition()
        self.key, self.size = (*key, worker), size
        self._reader = iter(ShardReader(shards, key, worker, num_workers, position.unit, position.index))
        self._ahead = next(self._reader)  # the first sample that is in no block yet
        self._next: list[RawSample] = []
        self._block: list[RawSample | None] = []
        self._order = np.empty(0, np.int64)
        self.position = position
        if position.given:
            self._start_block()
            for _ in range(position.given):
                next(self)

    def __next__(self) -> RawSample:
        if self.position.given == len(self._block):
            self._start_block()
        number = self._order[self.position.given]
        sample = self._block[number]
        assert sample is not None  # each sample is returned once
        self._block[number] = None
        self._read_ahead()
        self.position = replace(self.position, given=self.position.given + 1)
        return sample

    def _start_block(self):
        number = self.position.block + 1 if self._block else self.position.block
        while self._read_ahead():
            pass
        self._block, self._next = list(self._next), []
        self._order = np.random.default_rng((*self.key, BLOCK_STREAM, number)).permutation(len(self._block))
        first = self._block[0]
        assert first is not None
        self.position = StreamPosition(first.unit, first.offset, number, 0)

    def _read_ahead(self) -> bool:
        """Add one sample to the next block; return False if the block is full or its epoch has ended."""
        if len(self._next) == self.size or (self._next and self._next[0].epoch != self._ahead.epoch):
            return False
        self._next.append(self._ahead)
        self._ahead = next(self._reader)
        return True
