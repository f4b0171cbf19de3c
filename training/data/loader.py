"""Loaders: the batches of one training process, one for each step, with a state to resume from."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from training.data.batch import Batch
from training.data.dataset import CollatedBatch, PairDataset
from training.data.sampling import BatchPlan, KeyedBatchSampler, SampleKey
from training.data.stream import PairStream, StreamBatches

Pairs = PairDataset | PairStream
Attempt = tuple[SampleKey, Tensor | str | None]  # a key, and its image or the cause why it does not decode
WORKER_STATES = "lanes"  # key of the worker states in a checkpoint


class Loader(Protocol):
    """The batches of one training process, from `plan.start` to `plan.stop`."""

    def __iter__(self) -> Iterator[Batch]:
        """Yield one full batch for each step."""

    def state(self) -> dict[str, Any]:
        """Return, as JSON, the state after the last batch that was yielded."""


def make_loader(pairs: Pairs, plan: BatchPlan, states: Sequence[dict[str, Any]] = ()) -> Loader:
    """Make the loader of a training process.

    Args:
        pairs: Images and captions.
        plan: Batches of this process.
        states: Loader state of every training process at `plan.start`, to resume a run. Default: a new run.

    Raises:
        ValueError: A stream was divided among a different number of processes or workers before.
    """
    if isinstance(pairs, PairStream):
        return StreamLoader(pairs, plan, states)
    return RowLoader(pairs, plan, states)


class RowLoader:
    """Batches of rows that can be looked up. The rows of a batch depend only on its step.

    Takes the arguments of `make_loader`; the states list the rows that were skipped.
    """

    def __init__(self, pairs: PairDataset, plan: BatchPlan, states: Sequence[dict[str, Any]] = ()):
        self.skipped = pairs.skipped
        self.skipped.merge(states)
        rows = _Rows(pairs)
        self._loader = _data_loader(
            rows,
            pairs.config.workers,
            batch_sampler=KeyedBatchSampler(pairs.groups, plan, pairs.config.batches != "mixed"),
            collate_fn=rows.collate,
        )

    def __iter__(self) -> Iterator[Batch]:
        batch: CollatedBatch
        for batch in self._loader:
            for row, cause in batch.pop("skipped"):
                self.skipped.add(row, cause)
            yield batch

    def state(self) -> dict[str, Any]:
        """Return the rows skipped so far. The position is the step itself."""
        return self.skipped.state()


class StreamLoader:
    """Batches of a stream. Every worker reads its own samples and sends its state with each batch.

    Takes the arguments of `make_loader`.

    Raises:
        ValueError: The states are from a different number of processes or workers.
    """

    def __init__(self, pairs: PairStream, plan: BatchPlan, states: Sequence[dict[str, Any]] = ()):
        num_workers = max(1, pairs.config.workers)
        self.skipped = pairs.skipped
        self._states: list[dict[str, Any]] = []  # one for each worker, after its last batch
        if plan.start:
            self._states = _worker_states(states, plan, num_workers)
            self._merge_skips()
        self._loader = _data_loader(
            StreamBatches(pairs, plan, num_workers, list(self._states)), pairs.config.workers, batch_size=None
        )
        self._states = self._states or [{}] * num_workers

    def _merge_skips(self):
        self.skipped.merge([state["skipped"] for state in self._states if state])

    def __iter__(self) -> Iterator[Batch]:
        for worker, state, batch in self._loader:
            self._states[worker] = state
            self._merge_skips()
            yield batch

    def state(self) -> dict[str, Any]:
        """Return the state of each worker after the last batch that it made."""
        return {WORKER_STATES: list(self._states)}


def _worker_states(states: Sequence[dict[str, Any]], plan: BatchPlan, num_workers: int) -> list[dict[str, Any]]:
    """Select the worker states of this process, after a check that the stream is divided as before."""
    before = [len(state.get(WORKER_STATES, ())) for state in states]
    if before != [num_workers] * plan.num_processes:
        raise ValueError(
            f"data: this stream was divided among {len(before)} processes with {before[0] if before else 0} decoding "
            f"processes each, and now among {plan.num_processes} with {num_workers}. Resume with as many processes "
            "and data.workers as before (0 counts as 1)."
        )
    return list(states[plan.rank][WORKER_STATES])


def _data_loader(dataset: torch.utils.data.Dataset, workers: int, **options: Any) -> DataLoader:
    return DataLoader(
        dataset,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        **options,
    )


class _Rows(torch.utils.data.Dataset):
    """Loads samples by key in a DataLoader worker. An image that does not decode is replaced by the group's next row.

    Batches are therefore always full, and every process has a batch at every step.
    """

    def __init__(self, pairs: PairDataset):
        self.pairs = pairs

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[list[Attempt]]:
        """Load the sample of each key: all attempts. Only the last one is usable."""
        images = self.pairs.load_images([key.row for key in keys])
        return [self._attempts(key, image) for key, image in zip(keys, images, strict=True)]

    def _attempts(self, key: SampleKey, image: Tensor | str | None) -> list[Attempt]:
        rows = self.pairs.groups[key.group].rows
        first, attempts = int(np.searchsorted(rows, key.row)), [(key, image)]
        for position in range(first + 1, first + len(rows)):
            if not isinstance(attempts[-1][1], str):
                return attempts
            row = int(rows[position % len(rows)])
            attempts.append((key._replace(row=row), self.pairs[row]))
        if isinstance(attempts[-1][1], str):
            raise ValueError(f"data: no image of {self.pairs.config.name!r} decodes ({attempts[0][1]}). Fix the data.")
        return attempts

    def collate(self, samples: list[list[Attempt]]) -> CollatedBatch:
        is_one_group = self.pairs.config.batches != "mixed"
        languages = self.pairs.groups[samples[0][0][0].group].languages if is_one_group else None
        attempts = [(key.row, key.view_id, key.epoch, image) for sample in samples for key, image in sample]
        return self.pairs.collate(attempts, languages)
