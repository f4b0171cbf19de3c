"""Which rows make up which step, and the loader that decodes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from training.data.dataset import PairDataset


@dataclass(frozen=True)
class KeyedBatches:
    """Rows and views of each step, as a function of (seed, step): a run that starts at step n goes on as if it had
    never stopped.

    Args:
        rows: the usable rows.
        batch_size: pictures a step and process.
        seed: of the shuffling.
        num_views: views that take turns, epoch by epoch; 0 makes a new view each epoch.
        start, stop: steps to yield.
        rank, num_processes: each process takes its own part of every global batch.
    """

    rows: np.ndarray
    batch_size: int
    seed: int
    num_views: int
    start: int
    stop: int
    rank: int = 0
    num_processes: int = 1

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        global_batch = self.batch_size * self.num_processes
        orders: dict[int, np.ndarray] = {}
        for step in range(self.start, self.stop):
            first = step * global_batch + self.rank * self.batch_size
            batch = []
            for position in range(first, first + self.batch_size):
                epoch, index = divmod(position, len(self.rows))
                if epoch not in orders:
                    orders = {number: order for number, order in orders.items() if number == epoch - 1}
                    orders[epoch] = self.rows[np.random.default_rng((self.seed, epoch)).permutation(len(self.rows))]
                row = int(orders[epoch][index])
                view = epoch if self.num_views == 0 else (epoch + row) % self.num_views
                batch.append((row, view))
            yield batch


class _Loader(torch.utils.data.Dataset):
    """What a DataLoader worker does: look up a (row, view), or the next row whose picture decodes.

    Batches are always full, so that every process has a batch at every step.
    """

    def __init__(self, dataset: PairDataset):
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> list[tuple[int, int, Tensor | str | None]]:
        """All tries: the last one is usable, those before say why they are not."""
        row, view = key
        rows = self.dataset.usable_rows
        first = int(np.searchsorted(rows, row))
        tries: list[tuple[int, int, Tensor | str | None]] = []
        for position in range(first, first + len(rows)):
            row = int(rows[position % len(rows)])
            tries.append((row, view, self.dataset[row]))
            if not isinstance(tries[-1][2], str):
                return tries
        raise ValueError(f"data: no picture of {self.dataset.config.train!r} decodes ({tries[0][2]}). Mend the data.")

    def collate(self, samples: list[list[tuple[int, int, Tensor | str | None]]]) -> dict[str, Any]:
        return self.dataset.collate([sample for tries in samples for sample in tries])


def make_loader(dataset: PairDataset, batches: KeyedBatches) -> DataLoader:
    """A DataLoader of the batch dicts of this module's docstring; skipped pictures stand under `skipped`."""
    workers = dataset.config.workers
    loader = _Loader(dataset)
    return DataLoader(
        loader,
        batch_sampler=batches,
        collate_fn=loader.collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
