"""Which samples make up which batch: mixtures of sources and shuffled epochs, as pure functions of seed and step."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from training.config import DataConfig
from training.data.batch import Batch
from training.data.images import Augment
from training.utils.process import num_cores

MAX_WORKERS = 16
SHARED_MEMORY = Path("/dev/shm")
MIB = 2**20
CYCLE = 10_000  # draws of a mixture; every source has exactly its share of them
# added to the seed, so that different uses of one seed draw different random numbers
MIXTURE_STREAM = 1 << 20
SHARD_STREAM = 1 << 21
BLOCK_STREAM = 1 << 22


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
        augment: Augmentation whose random changes are drawn with each batch; None draws none.
        read_targets: Function that reads the cached targets of a batch, as fields of `Batch`; None reads none.
    """

    batch_size: int
    seed: int
    num_views: int
    start: int
    stop: int
    rank: int = 0
    num_processes: int = 1
    augment: Augment | None = None
    read_targets: Callable[[Batch], Batch] | None = None

    def add_views(self, batch: Batch):
        """Draw the views of the images of a batch, and read its cached targets, while the device works."""
        if self.read_targets is not None:
            batch.update(self.read_targets(batch))
        if self.augment is not None and "images" in batch:
            batch["views"] = self.augment.views(batch["rows"], batch["view_ids"])


class MixtureSchedule:
    """The source of each draw of a mixture, as a pure function of the draw's number.

    Draws are shuffled within cycles of `CYCLE` draws. In each cycle every source has exactly its share.

    Args:
        weights: Weights of the sources, above 0. The share of a source is its weight over the sum of all weights.
        key: Integers that key the shuffling, the seed first.

    Raises:
        ValueError: A weight is too small for one draw in a cycle.
    """

    def __init__(self, weights: Sequence[float], key: Sequence[int]):
        shares = CYCLE * np.array(weights, np.float64) / sum(weights)
        counts = np.floor(shares).astype(int)
        # largest remainders
        counts[np.argsort(counts - shares, kind="stable")[: CYCLE - counts.sum()]] += 1
        if not counts.all():
            raise ValueError(
                f"data.sources: weight {weights[int(counts.argmin())]} is less than 1/{CYCLE} of the sum of all. "
                "Remove the source or raise its weight."
            )
        self.counts = counts
        self.key = key
        self._cycle = lru_cache(maxsize=2)(self._shuffle)

    def __call__(self, number: int) -> tuple[int, int]:
        """Look up a draw.

        Args:
            number: Number of the draw, from 0.

        Returns:
            Index of the draw's source, and number of earlier draws from it.
        """
        if len(self.counts) == 1:
            return 0, number
        cycle, index = divmod(number, CYCLE)
        sources, earlier = self._cycle(cycle)
        source = int(sources[index])
        return source, cycle * int(self.counts[source]) + int(earlier[index])

    def _shuffle(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """Source of each draw of a cycle, and number of earlier draws from it in the cycle, both (CYCLE,) int64."""
        sources = np.random.default_rng((*self.key, MIXTURE_STREAM, cycle)).permutation(
            np.repeat(np.arange(len(self.counts)), self.counts)
        )
        earlier = np.empty(CYCLE, np.int64)
        for source, count in enumerate(self.counts):
            earlier[sources == source] = np.arange(count)
        return sources, earlier


class SampleKey(NamedTuple):
    """A sample to load.

    Args:
        row: Row number in all data.
        view_id: Number of the random view of the image.
        epoch: Pass over the rows, which chooses among several captions.
        source: Index of the source that the row was drawn from.
    """

    row: int
    view_id: int
    epoch: int
    source: int


@dataclass(frozen=True)
class KeyedBatchSampler:
    """Batch sampler for data whose rows can be looked up. Yields the sample keys of each step.

    Args:
        rows: Usable rows of each source in ascending order, (N,) int64.
        weights: Weight of each source.
        plan: Batches to yield.
    """

    rows: Sequence[np.ndarray]
    weights: Sequence[float]
    plan: BatchPlan

    def __len__(self) -> int:
        return self.plan.stop - self.plan.start

    def __iter__(self) -> Iterator[list[SampleKey]]:
        plan = self.plan
        schedule = MixtureSchedule(self.weights, (plan.seed,))

        @lru_cache(maxsize=2 * len(self.rows))
        def shuffled(source: int, epoch: int) -> np.ndarray:
            rows = self.rows[source]
            return np.random.default_rng((plan.seed, epoch, source)).permutation(len(rows))

        for step in range(plan.start, plan.stop):
            first = (step * plan.num_processes + plan.rank) * plan.batch_size
            batch = []
            for number in range(first, first + plan.batch_size):
                source, position = schedule(number)
                rows = self.rows[source]
                epoch, offset = divmod(position, len(rows))
                row = int(rows[shuffled(source, epoch)[offset]])
                view_id = epoch if plan.num_views == 0 else (epoch + row) % plan.num_views
                batch.append(SampleKey(row, view_id, epoch, source))
            yield batch


def num_workers(config: DataConfig) -> int:
    """Number of decoding processes of a training process. Default: with a GPU one for each core, else 0."""
    if config.workers is not None:
        return config.workers
    if not torch.cuda.is_available():
        return 0
    return max(1, min(MAX_WORKERS, num_cores() // _local_processes()))


def _local_processes() -> int:
    """Number of training processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def image_bytes(size: int | None) -> int:
    """Size of a decoded image in bytes, 0 without images."""
    return 3 * (size or 0) ** 2


def data_loader(dataset: Any, workers: int, batch_bytes: int = 0, **options: Any) -> DataLoader:
    """Make a DataLoader.

    Args:
        dataset: Data set to load, or a list.
        workers: Number of decoding processes; with 0 this process decodes.
        batch_bytes: Size of the images of a batch.
        options: Other arguments of `DataLoader`.

    Raises:
        ValueError: The shared memory, which a container limits, is too small for the batches that are prepared.
    """
    # each worker prepares two batches, and all processes of the machine share the memory
    processes = _local_processes()
    needed = 2 * processes * workers * batch_bytes
    if SHARED_MEMORY.is_dir() and needed > (free := shutil.disk_usage(SHARED_MEMORY).free):
        raise ValueError(
            f"data.workers: {workers} workers of {processes} processes need {needed / MIB:,.0f} MiB of shared memory, "
            f"and {SHARED_MEMORY} has {free / MIB:,.0f} MiB free. Enlarge it (docker run --shm-size), or lower "
            "data.workers or batch_size."
        )
    return DataLoader(
        dataset,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        **options,
    )
