"""A source as a stream: its shards in a keyed order, divided among lanes, shuffled within a buffer, and its position.

A lane is one decoding process of one training process. Each source's units of reading, all shards of one epoch after
those of another, are dealt to the lanes like cards, so that no two lanes read the same samples in an epoch.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
from datasets import IterableDataset

from training.data.turns import BLOCKS, UNITS

READ_AT_ONCE = 16
MOST_EMPTY = 16  # a lane that has met so many times the number of units, all empty, has no rows


class Raw(NamedTuple):
    """One row as it is stored, and where it lies.

    Args:
        row: its number in all data: the source, the shard in it and the place in that.
        epoch: of this source and lane.
        unit: how many units the lane has read before.
        number: of it in the unit.
        cells: its columns; the image is not decoded.
    """

    row: int
    epoch: int
    unit: int
    number: int
    cells: dict[str, Any]


@dataclass(frozen=True)
class StreamPosition:
    """Where a lane is in a source: what block it is giving out, and how far it has come in it.

    Args:
        unit: of the first sample of the block; units that the lane has read before it.
        index: place of that sample in the unit.
        block: number of the block.
        given: samples of the block that were given out.
    """

    unit: int = 0
    index: int = 0
    block: int = 0
    given: int = 0


class Shards:
    """A stream's shards, each of which can be read from any place.

    Args:
        rows: the stream.
        number: of the source.
        name: of the source, for messages.
        image_column: its images are left encoded; None where no images are wanted.
        captions: columns of captions, such as `json.caption`.

    Raises:
        ValueError: it has no rows, or a column is missing.
    """

    def __init__(
        self, rows: IterableDataset, number: int, name: str, image_column: str | None, captions: Iterable[str]
    ):
        self.number, self.name = number, name
        first = next(iter(rows.decode(False) if rows.features else rows), None)
        if first is None:
            raise ValueError(f"data: {name!r} has no rows.")
        wanted = [*([image_column] if image_column else []), *captions]
        for column in wanted:
            if not has_cell(first, column):
                raise ValueError(
                    f"data: {name!r} has no column {column!r}, only {sorted(first)}. Name the right one under data."
                )
        if rows.column_names is not None:
            rows = rows.select_columns(list(dict.fromkeys(_stored(first, column) for column in wanted)))
            # cells as they are stored, which is all we want: to check and copy every one of them takes as long as
            # decoding a small image
            rows.info.features = None
        self.rows = rows

    def __len__(self) -> int:
        return self.rows.num_shards

    def read(self, shard: int, start: int) -> Iterator[dict[str, Any]]:
        """The rows of a shard from row number `start` on; those before it are not decoded.

        Raises:
            ValueError: the shard cannot be read.
        """
        rows = self.rows.shard(num_shards=len(self), index=shard)
        # in batches: one by one, a stream asks torch which worker it is in, and would leave shards to the others
        batches = (rows.skip(start) if start else rows).iter(batch_size=READ_AT_ONCE)
        try:
            for batch in batches:
                names = list(batch)
                for cells in zip(*batch.values(), strict=True):
                    yield dict(zip(names, cells, strict=True))
        except Exception as error:  # the formats raise many kinds
            raise ValueError(
                f"data: shard {shard} of {self.name!r} cannot be read on ({type(error).__name__}: {error}). Mend or "
                "remove it; the last checkpoint is untouched."
            ) from error


def _stored(row: dict[str, Any], column: str) -> str:
    """The column that a field such as `json.caption` lies in."""
    return column if column in row else column.partition(".")[0]


def has_cell(row: dict[str, Any], column: str) -> bool:
    """Whether a row has a column of this name, or a field of one; a cell that is empty may have any."""
    if column in row:
        return True
    head, _, rest = column.partition(".")
    inner = row.get(head, {})
    return bool(rest) and (inner is None or (isinstance(inner, dict) and has_cell(inner, rest)))


def get_cell(row: dict[str, Any], column: str) -> Any:
    """The cell of a column or of a field such as `json.caption`; None where there is none."""
    if column in row:
        return row[column]
    head, _, rest = column.partition(".")
    inner = row.get(head)
    return get_cell(inner, rest) if rest and isinstance(inner, dict) else None


class LaneReader:
    """One lane's samples of one source, for ever.

    Args:
        shards: of the source.
        key: integers, of the order of shards; the seed first.
        lane: number of this lane among all of all processes.
        num_lanes: of these.
        unit: to begin with; units that the lane has read before.
        index: place in it.

    Yields:
        Samples as they are stored, epoch after epoch.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, shards: Shards, key: tuple[int, ...], lane: int, num_lanes: int, unit: int = 0, index: int = 0):
        self.shards, self.key, self.lane, self.num_lanes = shards, key, lane, num_lanes
        self.unit, self.index = unit, index
        # lanes that outnumber the shards share them, each taking every n-th sample of a part of them
        self.parts = -(-num_lanes // len(shards))

    def __iter__(self) -> Iterator[Raw]:
        num_units, empty = len(self.shards) * self.parts, 0
        start = self.index
        for unit in count(self.unit):
            epoch, turn = divmod(self.lane + unit * self.num_lanes, num_units)
            order = np.random.default_rng((*self.key, UNITS, epoch)).permutation(num_units)
            shard, part = divmod(int(order[turn]), self.parts)
            first = part + start * self.parts
            index = start - 1
            rows = islice(self.shards.read(shard, first), None, None, self.parts)
            for index, cells in enumerate(rows, start=start):
                place = part + index * self.parts
                yield Raw(self.shards.number << 56 | shard << 32 | place, epoch, unit, index, cells)
            empty = empty + 1 if index < 0 else 0
            if empty > MOST_EMPTY * num_units:
                raise ValueError(f"data: {self.shards.name!r} has no rows for {self.num_lanes} decoding processes.")
            start = 0


class ShuffledLane:
    """One lane's samples of one source, shuffled block by block within an epoch.

    While one block is given out the next is read, sample for sample, so that no more than a block is held and none is
    waited for but the first. The position is small, and to go on from it no more than the shard's beginning and two
    blocks are read again, and nothing is decoded.

    Args:
        shards: of the source.
        key: integers, of all orders; the seed first.
        lane: number of this lane among all of all processes.
        num_lanes: of these.
        size: samples in a block.
        position: where to go on.
    """

    def __init__(
        self,
        shards: Shards,
        key: tuple[int, ...],
        lane: int,
        num_lanes: int,
        size: int,
        position: StreamPosition | None = None,
    ):
        position = position or StreamPosition()
        self.key, self.size = (*key, lane), size
        self._reader = iter(LaneReader(shards, key, lane, num_lanes, position.unit, position.index))
        self._ahead = next(self._reader)  # the first sample that is in no block yet
        self._next: list[Raw] = []
        self._block: list[Raw | None] = []
        self._order = np.empty(0, np.int64)
        self.position = position
        if position.given:
            self._turn()
            for _ in range(position.given):
                next(self)

    def __next__(self) -> Raw:
        if self.position.given == len(self._block):
            self._turn()
        position = self._order[self.position.given]
        raw = self._block[position]
        assert raw is not None  # each is given once
        self._block[position] = None
        self._take()
        self.position = replace(self.position, given=self.position.given + 1)
        return raw

    def _turn(self):
        """Begin the next block."""
        number = self.position.block + 1 if self._block else self.position.block
        while self._take():
            pass
        self._block, self._next = list(self._next), []
        self._order = np.random.default_rng((*self.key, BLOCKS, number)).permutation(len(self._block))
        first = self._block[0]
        assert first is not None
        self.position = StreamPosition(first.unit, first.number, number, 0)

    def _take(self) -> bool:
        """Put one more sample into the next block; False where it is full, or its epoch is at an end."""
        if len(self._next) == self.size or (self._next and self._next[0].epoch != self._ahead.epoch):
            return False
        self._next.append(self._ahead)
        self._ahead = next(self._reader)
        return True
