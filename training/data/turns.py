"""Whose turn it is in a mixture, and which rows make up which step: pure functions of seed and step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from training.config import DataConfig

CYCLE = 10_000  # in so many turns everybody has exactly its share
TURNS, UNITS, BLOCKS = 1 << 20, 1 << 21, 1 << 22  # tell the uses of one seed apart


@dataclass(frozen=True)
class Order:
    """Which part of which steps a process takes. A run that starts at step n goes on as if it had never stopped.

    Args:
        batch_size: images a step and process.
        seed: of the shuffling.
        num_views: views that take turns, epoch by epoch; 0 makes a new view each epoch.
        start, stop: steps to yield.
        rank, num_processes: each process takes its own part of every global batch.
    """

    batch_size: int
    seed: int
    num_views: int
    start: int
    stop: int
    rank: int = 0
    num_processes: int = 1


class Turns:
    """Whose turn it is, as a pure function of the position. Shares are exact over every `CYCLE` turns, whose order is
    random.

    Args:
        weights: of G groups, above 0.
        key: integers; the seed first.

    Raises:
        ValueError: a weight is too small to have a turn in a cycle.
    """

    def __init__(self, weights: Sequence[float], key: Sequence[int]):
        shares = CYCLE * np.array(weights, np.float64) / sum(weights)
        counts = np.floor(shares).astype(int)
        counts[np.argsort(counts - shares, kind="stable")[: CYCLE - counts.sum()]] += 1  # largest remainders
        if not counts.all():
            raise ValueError(
                f"data.sources: weight {weights[int(counts.argmin())]} is less than 1/{CYCLE} of the sum of all. "
                "Leave the source out, or give it more."
            )
        self.counts, self.key, self._cycles = counts, key, dict[int, tuple[np.ndarray, np.ndarray]]()

    def __call__(self, position: int) -> tuple[int, int]:
        """The group whose turn it is, and how many turns it had before."""
        if len(self.counts) == 1:
            return 0, position
        cycle, index = divmod(position, CYCLE)
        if cycle not in self._cycles:
            self._cycles = {number: kept for number, kept in self._cycles.items() if number == cycle - 1}
            self._cycles[cycle] = self._shuffle(cycle)
        order, before = self._cycles[cycle]
        group = int(order[index])
        return group, cycle * int(self.counts[group]) + int(before[index])

    def _shuffle(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """Groups (CYCLE,) in the order of this cycle, and how many turns each had in it before."""
        order = np.random.default_rng((*self.key, TURNS, cycle)).permutation(
            np.repeat(np.arange(len(self.counts)), self.counts)
        )
        before = np.empty(CYCLE, np.int64)
        for group, count in enumerate(self.counts):
            before[order == group] = np.arange(count)
        return order, before


class Group(NamedTuple):
    """Rows that are drawn alike: those of one source, or of one source in one language.

    Args:
        source: number of the source.
        languages: in which its captions are read.
        weight: its share of the samples is its weight over the sum of all.
        rows: (N,) int64, the usable ones, ascending; empty for a stream.
    """

    source: int
    languages: tuple[str, ...]
    weight: float
    rows: np.ndarray


def make_groups(config: DataConfig) -> list[Group]:
    """The sources of a mixture, or each of their languages where a batch is of one; without rows."""
    groups = []
    for number, source in enumerate(config.mixture):
        languages = list(source.caption_columns or {})
        parts = [[language] for language in languages] if config.batches == "one_language" else [languages]
        groups += [Group(number, tuple(part), source.weight / len(parts), np.empty(0, np.int64)) for part in parts]
    return groups


class Key(NamedTuple):
    """One sample to make: its row, the view to take, and the group that it is drawn from."""

    row: int
    view: int
    group: int


@dataclass(frozen=True)
class KeyedBatches:
    """Rows and views of each step, for data whose rows can be looked up.

    Args:
        groups: with their rows.
        order: which part of which steps.
        homogeneous: all samples of a step, on all processes, are of one group.
    """

    groups: Sequence[Group]
    order: Order
    homogeneous: bool = False

    def __len__(self) -> int:
        return self.order.stop - self.order.start

    def __iter__(self) -> Iterator[list[Key]]:
        order = self.order
        global_batch = order.batch_size * order.num_processes
        turns = Turns([group.weight for group in self.groups], (order.seed,))
        epochs: dict[tuple[int, int], np.ndarray] = {}
        for step in range(order.start, order.stop):
            first = order.rank * order.batch_size
            batch = []
            for place in range(first, first + order.batch_size):
                if self.homogeneous:
                    group, turn = turns(step)
                    position = turn * global_batch + place
                else:
                    group, position = turns(step * global_batch + place)
                rows = self.groups[group].rows
                epoch, index = divmod(position, len(rows))
                if (group, epoch) not in epochs:
                    epochs = {key: kept for key, kept in epochs.items() if key[0] != group or key[1] == epoch - 1}
                    shuffled = np.random.default_rng((order.seed, epoch, group)).permutation(len(rows))
                    epochs[group, epoch] = rows[shuffled]
                row = int(epochs[group, epoch][index])
                view = epoch if order.num_views == 0 else (epoch + row) % order.num_views
                batch.append(Key(row, view, group))
            yield batch
