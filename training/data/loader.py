"""From data to a training process's batches, one a step, with a position to go on from."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from training.data.dataset import PairDataset
from training.data.pair_stream import LaneBatches, PairStream
from training.data.turns import Key, KeyedBatches, Order

Pairs = PairDataset | PairStream


class Loader(Protocol):
    """The batches of one training process, from `order.start` to `order.stop`."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """One batch a step; all are full."""

    def state(self) -> dict[str, Any]:
        """Where the loader is after the last batch it gave, as JSON."""


def make_loader(pairs: Pairs, order: Order, states: Sequence[dict[str, Any]] = ()) -> Loader:
    """A loader of the batch dicts that `training.data` describes.

    Args:
        pairs: the data.
        order: which part of which steps.
        states: the loaders' states of all processes, of a run that goes on at `order.start`.

    Raises:
        ValueError: a stream was divided among another number of processes.
    """
    if isinstance(pairs, PairStream):
        return StreamLoader(pairs, order, states)
    return RowLoader(pairs, order, states)


class RowLoader:
    """Batches of rows that can be looked up. Which rows those are is a function of the step alone.

    Args:
        pairs: the data.
        order: which part of which steps.
        states: what all processes skipped before.
    """

    def __init__(self, pairs: PairDataset, order: Order, states: Sequence[dict[str, Any]] = ()):
        self.skipped = pairs.skipped
        self.skipped.merge(states)
        rows = _Rows(pairs)
        self._loader = _data_loader(
            rows,
            pairs.config.workers,
            batch_sampler=KeyedBatches(pairs.groups, order, pairs.config.batches != "mixed"),
            collate_fn=rows.collate,
        )

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self._loader:
            for row, cause in batch.pop("skipped"):
                self.skipped.add(row, cause)
            yield batch

    def state(self) -> dict[str, Any]:
        """What was skipped on the way; the position is the step itself."""
        return self.skipped.state()


class StreamLoader:
    """Batches of a stream. Every decoding process reads samples of its own and sends its position with each batch.

    Args:
        pairs: the data.
        order: which part of which steps.
        states: where the loaders of all processes were.

    Raises:
        ValueError: they were more or fewer processes.
    """

    def __init__(self, pairs: PairStream, order: Order, states: Sequence[dict[str, Any]] = ()):
        num_lanes = max(1, pairs.config.workers)
        self.skipped = pairs.skipped
        self._lanes: list[dict[str, Any]] = []
        if order.start:
            self._lanes = _own_lanes(states, order, num_lanes)
            self.skipped.merge([lane["skipped"] for lane in self._lanes if lane])
        self._loader = _data_loader(
            LaneBatches(pairs, order, num_lanes, list(self._lanes)), pairs.config.workers, batch_size=None
        )
        self._lanes = self._lanes or [{}] * num_lanes

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self._loader:
            self._lanes[batch.pop("lane")] = batch.pop("state")
            self.skipped.merge([lane["skipped"] for lane in self._lanes if lane])
            yield batch

    def state(self) -> dict[str, Any]:
        """Where each lane is after the last batch it gave."""
        return {"lanes": list(self._lanes)}


def _own_lanes(states: Sequence[dict[str, Any]], order: Order, num_lanes: int) -> list[dict[str, Any]]:
    found = [len(state.get("lanes", ())) for state in states]
    if found != [num_lanes] * order.num_processes:
        raise ValueError(
            f"data: this stream was divided among {len(found)} processes with {found[0] if found else 0} decoding "
            f"processes each, and now among {order.num_processes} with {num_lanes}. Resume with as many processes and "
            "data.workers as before (0 counts as 1)."
        )
    return list(states[order.rank]["lanes"])


def _data_loader(dataset: torch.utils.data.Dataset, workers: int, **options: Any) -> DataLoader:
    return DataLoader(
        dataset,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        **options,
    )


class _Rows(torch.utils.data.Dataset):
    """What a DataLoader worker does: look up keys, or the next row of the group whose image decodes.

    Batches are always full, so that every process has a batch at every step.
    """

    def __init__(self, pairs: PairDataset):
        self.pairs = pairs

    def __getitems__(self, keys: Sequence[Key]) -> list[list[tuple[Key, Tensor | str | None]]]:
        """All tries of each key: the last one is usable, those before say why they are not."""
        images = self.pairs.look_up([key.row for key in keys])
        return [self._tries(key, image) for key, image in zip(keys, images, strict=True)]

    def _tries(self, key: Key, image: Tensor | str | None) -> list[tuple[Key, Tensor | str | None]]:
        rows = self.pairs.groups[key.group].rows
        first, tries = int(np.searchsorted(rows, key.row)), [(key, image)]
        for position in range(first + 1, first + len(rows)):
            if not isinstance(tries[-1][1], str):
                return tries
            row = int(rows[position % len(rows)])
            tries.append((key._replace(row=row), self.pairs[row]))
        if isinstance(tries[-1][1], str):
            raise ValueError(f"data: no image of {self.pairs.config.name!r} decodes ({tries[0][1]}). Mend the data.")
        return tries

    def collate(self, samples: list[list[tuple[Key, Tensor | str | None]]]) -> dict[str, Any]:
        is_one_group = self.pairs.config.batches != "mixed"
        languages = self.pairs.groups[samples[0][0][0].group].languages if is_one_group else None
        tries = [(key.row, key.view, image) for sample in samples for key, image in sample]
        return self.pairs.collate(tries, languages)
