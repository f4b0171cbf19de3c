"""Which samples make up which batch: mixtures of sources and shuffled epochs, as pure functions of seed and step.

A group is one source, or one language of one source. A mixture draws every sample, or every batch, from one group.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from training.config import DataConfig

CYCLE = 10_000  # draws of a mixture; every group has exactly its share of them
# added to the seed, so that different uses of one seed draw different random numbers
MIXTURE_STREAM, SHARD_STREAM, BLOCK_STREAM = 1 << 20, 1 << 21, 1 << 22


@dataclass(frozen=True)
class BatchPlan:
    """Which batches a training process takes.

    A run that starts at step n continues with the batches of an uninterrupted run.

    Args:
        batch_size: Number of images for each step and process.
        seed: Seed of the shuffling.
        num_views: Number of views that are used in turn, one for each epoch; 0 makes a new view in each epoch.
        start: First step.
        stop: Step after the last one.
        rank: Index of this process; each process takes its own part of every global batch.
        num_processes: Number of training processes.
    """

    batch_size: int
    seed: int
    num_views: int
    start: int
    stop: int
    rank: int = 0
    num_processes: int = 1


class MixtureSchedule:
    """The group of each draw of a mixture, as a pure function of the draw's number.

    Draws are shuffled within cycles of `CYCLE` draws. In each cycle every group has exactly its share.

    Args:
        weights: Weights of the G groups, above 0. The share of a group is its weight over the sum of all weights.
        key: Integers that key the shuffling, the seed first.

    Raises:
        ValueError: A weight is too small for one draw in a cycle.
    """

    def __init__(self, weights: Sequence[float], key: Sequence[int]):
        shares = CYCLE * np.array(weights, np.float64) / sum(weights)
        counts = np.floor(shares).astype(int)
        counts[np.argsort(counts - shares, kind="stable")[: CYCLE - counts.sum()]] += 1  # largest remainders
        if not counts.all():
            raise ValueError(
                f"data.sources: weight {weights[int(counts.argmin())]} is less than 1/{CYCLE} of the sum of all. "
                "Remove the source or raise its weight."
            )
        self.counts, self.key, self._cycles = counts, key, dict[int, tuple[np.ndarray, np.ndarray]]()

    def __call__(self, number: int) -> tuple[int, int]:
        """Look up a draw.

        Args:
            number: Number of the draw, from 0.

        Returns:
            Index of the draw's group, and number of earlier draws from this group.
        """
        if len(self.counts) == 1:
            return 0, number
        cycle, index = divmod(number, CYCLE)
        if cycle not in self._cycles:
            self._cycles = {kept: value for kept, value in self._cycles.items() if kept == cycle - 1}
            self._cycles[cycle] = self._shuffle(cycle)
        groups, earlier = self._cycles[cycle]
        group = int(groups[index])
        return group, cycle * int(self.counts[group]) + int(earlier[index])

    def _shuffle(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """Group of each draw of a cycle, and number of earlier draws from it in the cycle, both (CYCLE,) int64."""
        groups = np.random.default_rng((*self.key, MIXTURE_STREAM, cycle)).permutation(
            np.repeat(np.arange(len(self.counts)), self.counts)
        )
        earlier = np.empty(CYCLE, np.int64)
        for group, count in enumerate(self.counts):
            earlier[groups == group] = np.arange(count)
        return groups, earlier


class SampleGroup(NamedTuple):
    """Samples that a mixture draws from with one weight: a source, or one language of a source.

    Args:
        source: Index of the source.
        languages: ISO 639-1 codes of the captions to use.
        weight: Weight of the group. Its share of the samples is its weight over the sum of all weights.
        rows: (N,) int64, usable rows in ascending order; empty for a stream.
    """

    source: int
    languages: tuple[str, ...]
    weight: float
    rows: np.ndarray


def make_groups(config: DataConfig) -> list[SampleGroup]:
    """Make the groups of a mixture, without rows.

    Args:
        config: Sources of the data. With `batches="one_language"` every language of a source is a group.
    """
    groups = []
    for number, source in enumerate(config.mixture):
        languages = list(source.caption_columns or {})
        parts = [[language] for language in languages] if config.batches == "one_language" else [languages]
        groups += [
            SampleGroup(number, tuple(part), source.weight / len(parts), np.empty(0, np.int64)) for part in parts
        ]
    return groups


class SampleKey(NamedTuple):
    """A sample to load.

    Args:
        row: Row number in all data.
        view_id: Number of the random view of the image.
        epoch: Pass over the rows, which chooses among several captions.
        group: Index of the group that the row was drawn from.
    """

    row: int
    view_id: int
    epoch: int
    group: int


@dataclass(frozen=True)
class KeyedBatchSampler:
    """Batch sampler for data whose rows can be looked up. Yields the sample keys of each step.

    Args:
        groups: Groups with their rows.
        plan: Batches to yield.
        homogeneous: Whether all samples of a step, on all processes, are of one group.
    """

    groups: Sequence[SampleGroup]
    plan: BatchPlan
    homogeneous: bool = False

    def __len__(self) -> int:
        return self.plan.stop - self.plan.start

    def __iter__(self) -> Iterator[list[SampleKey]]:
        plan = self.plan
        global_batch = plan.batch_size * plan.num_processes
        schedule = MixtureSchedule([group.weight for group in self.groups], (plan.seed,))
        epochs: dict[tuple[int, int], np.ndarray] = {}  # shuffled rows by (group, epoch)
        for step in range(plan.start, plan.stop):
            first = plan.rank * plan.batch_size
            batch = []
            for index in range(first, first + plan.batch_size):  # in the global batch
                if self.homogeneous:
                    group, earlier = schedule(step)
                    position = earlier * global_batch + index
                else:
                    group, position = schedule(step * global_batch + index)
                rows = self.groups[group].rows
                epoch, offset = divmod(position, len(rows))
                if (group, epoch) not in epochs:
                    epochs = {key: kept for key, kept in epochs.items() if key[0] != group or key[1] == epoch - 1}
                    shuffled = np.random.default_rng((plan.seed, epoch, group)).permutation(len(rows))
                    epochs[group, epoch] = rows[shuffled]
                row = int(epochs[group, epoch][offset])
                view_id = epoch if plan.num_views == 0 else (epoch + row) % plan.num_views
                batch.append(SampleKey(row, view_id, epoch, group))
            yield batch


def data_loader(dataset: torch.utils.data.Dataset, workers: int, **options: Any) -> DataLoader:
    """Make a DataLoader with `workers` decoding processes."""
    return DataLoader(
        dataset,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        **options,
    )
