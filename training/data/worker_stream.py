"""The batches that one decoding process makes of a stream."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import fsspec.asyn
import torch

from training.data.batch import Batch
from training.data.pair_stream import PairStream
from training.data.samples import Sample
from training.data.sampling import BatchPlan, MixtureSchedule, SampleGroup
from training.data.shard_stream import RawSample, ShuffledStream, StreamPosition
from training.data.skips import StreamSkipReport


class WorkerBatch(NamedTuple):
    """A batch and the worker that made it.

    Args:
        worker: Index of the worker in its training process.
        state: State of the worker after this batch.
        batch: The batch itself.
    """

    worker: int
    state: dict[str, Any]
    batch: Batch


class WorkerStream:
    """The share of one worker in the batches of a training process: every `num_workers`-th batch.

    Args:
        pairs: Stream of images and captions.
        plan: Batches of the training process.
        worker: Index of the worker in its training process.
        num_workers: Number of workers of each training process.
        state: Result of `state` to resume from; None starts at the beginning.
    """

    def __init__(
        self, pairs: PairStream, plan: BatchPlan, worker: int, num_workers: int, state: dict[str, Any] | None
    ):
        self.pairs, self.plan, self.worker, self.num_workers = pairs, plan, worker, num_workers
        global_worker = plan.rank * num_workers + worker
        positions = (
            [StreamPosition(**position) for position in state["positions"]]
            if state
            else [StreamPosition() for _ in pairs.groups]
        )
        self.skipped = StreamSkipReport(pairs.config.max_skip_share)
        if state:
            self.skipped.merge([state["skipped"]])
        self.homogeneous = pairs.config.batches != "mixed"
        weights = [group.weight for group in pairs.groups]
        # all processes use the same group for a homogeneous batch; in mixed batches each worker has its own schedule
        self.schedule = MixtureSchedule(weights, (plan.seed,) if self.homogeneous else (plan.seed, global_worker))
        self.streams = [
            ShuffledStream(
                pairs.shards[group.source],
                (plan.seed, number),
                global_worker,
                plan.num_processes * num_workers,
                pairs.config.shuffle_buffer,
                position,
            )
            for number, (group, position) in enumerate(zip(pairs.groups, positions, strict=True))
        ]

    def state(self) -> dict[str, Any]:
        """Return positions and skip counts as JSON."""
        return {"positions": [asdict(stream.position) for stream in self.streams], "skipped": self.skipped.state()}

    def batch(self, step: int) -> WorkerBatch:
        """Make the batch of a step.

        Args:
            step: Step of this worker. Steps must be requested in order, because the stream moves on.
        """
        size = self.plan.batch_size
        first = step // self.num_workers * size
        groups = [self.schedule(step if self.homogeneous else draw)[0] for draw in range(first, first + size)]
        batch = self.pairs.collate(self._samples(groups), self.skipped)
        return WorkerBatch(self.worker, self.state(), batch)

    def _samples(self, groups: Sequence[int]) -> list[Sample]:
        """Take the next usable sample of each of these groups, which may contain duplicates."""
        samples: dict[int, Sample] = {}
        first_epoch: dict[int, int] = {}  # epoch of the first attempt for each index of the batch
        while missing := [index for index in range(len(groups)) if index not in samples]:
            raw_samples = [self._raw_sample(groups[index], first_epoch.get(index)) for index in missing]
            decoded = self.pairs.decode(raw_samples, self.skipped)
            for index, (raw, _), sample in zip(missing, raw_samples, decoded, strict=True):
                first_epoch.setdefault(index, raw.epoch)
                if sample is not None:
                    samples[index] = sample
        return [samples[index] for index in range(len(groups))]

    def _raw_sample(self, number: int, first_epoch: int | None) -> tuple[RawSample, SampleGroup]:
        """Take the next sample of a group; raise ValueError if a whole epoch had no usable sample."""
        group, raw = self.pairs.groups[number], next(self.streams[number])
        if first_epoch is not None and raw.epoch > first_epoch + 1:
            raise ValueError(f"data: {self.pairs.shards[group.source].name!r} has no usable sample ({self.skipped}).")
        return raw, group


class WorkerBatches(torch.utils.data.IterableDataset):
    """The batches of one training process as an iterable dataset. Each DataLoader worker yields every n-th batch.

    Args:
        pairs: Stream of images and captions.
        plan: Batches of the training process.
        num_workers: Number of decoding processes, at least 1; the training process counts if it decodes itself.
        states: State of each worker to resume from; empty to start at the beginning.
    """

    def __init__(self, pairs: PairStream, plan: BatchPlan, num_workers: int, states: Sequence[dict[str, Any]]):
        super().__init__()
        self.pairs, self.plan, self.num_workers, self.states = pairs, plan, num_workers, states

    def __iter__(self) -> Iterator[WorkerBatch]:
        info = torch.utils.data.get_worker_info()
        if info is not None:
            fsspec.asyn.reset_lock()  # a lock that was held while this process was forked would never be released
        first = self.plan.start + (info.id if info is not None else 0)
        worker = first % self.num_workers
        stream = WorkerStream(
            self.pairs, self.plan, worker, self.num_workers, self.states[worker] if self.states else None
        )
        for step in range(first, self.plan.stop, self.num_workers):
            yield stream.batch(step)  # not kept in a variable, so that the training loop can release the images
