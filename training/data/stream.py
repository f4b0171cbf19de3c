"""Images and captions from streams of any size, and the batches that each decoding process makes of them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import fsspec.asyn
import torch
from torch import Tensor

from training.config import DataConfig
from training.data.batch import (
    Batch,
    CaptionTokenizer,
    Sample,
    make_batch,
    select_captions,
    text_id,
)
from training.data.captions import read_captions
from training.data.images import decode_images
from training.data.reader import open_stream, rules_for
from training.data.sampling import (
    BatchPlan,
    MixtureSchedule,
    data_loader,
    image_bytes,
    num_workers,
)
from training.data.shards import RawSample, Shards, StreamPosition, get_cell, shuffled_samples
from training.data.skips import MIN_SEEN, StreamSkipReport

WORKER_STATES = "lanes"  # key of the worker states in a checkpoint
# index of a worker in its training process, its state after a batch, as JSON, and the batch itself
WorkerBatch = tuple[int, dict[str, Any], Batch]


class PairStream:
    """Decoded images with tokenized captions, from one stream or a mixture.

    A stream has no length and no table of rows; it can only be read in the order of its shards. `make_loader` makes
    batches of it, and `StreamBatches` does the work in each decoding process.

    Args:
        config: Sources, their columns and limits.
        tokens: Tokenizer of the captions; None leaves captions out, and their columns may be missing.
        image_size: Edge S of the decoded images in pixels; None leaves images out, and their columns may be missing.
        squash: Whether images are resized to the square without a crop.

    Raises:
        ValueError: A source cannot be opened or is empty, or a column is missing.
    """

    def __init__(
        self,
        config: DataConfig,
        tokens: CaptionTokenizer | None,
        image_size: int | None,
        squash: bool = False,
    ):
        self.config = config
        self.tokens = tokens
        self.image_size = image_size
        self.squash = squash
        self.languages = config.languages
        self.skipped = StreamSkipReport(max_share=config.max_skip_share)
        self.caption_columns = []
        self.image_columns = []
        self.rules = []
        self.shards = []
        for number, source in enumerate(config.mixture):
            captions = source.caption_columns or {}
            image = source.image_column or config.image_column
            self.caption_columns.append(captions)
            self.image_columns.append(image)
            self.rules.append(rules_for(source.train, config.allow_paths))
            rows = open_stream(source.train, source.split, subset=source.subset, image_column=image)
            images = image if image_size is not None else None
            texts = captions.values() if tokens is not None else ()
            self.shards.append(Shards(rows, number, str(source.train), images, texts))

    def identity(self) -> str:
        """Return a short description of the streams, which a resumed run compares: the shards of each source."""
        return ", ".join(f"{shards.name}: {len(shards)} shards" for shards in self.shards)

    def decode(
        self, raw_samples: Sequence[RawSample], skipped: StreamSkipReport
    ) -> list[Sample | None]:
        """Decode raw samples, and count those that are skipped.

        Returns:
            One sample for each raw sample, in order; None for skipped samples.
        """
        skipped.check_languages(MIN_SEEN)
        captioned = [self._captions(raw, skipped) for raw in raw_samples]
        usable = [
            raw for raw, (_, cause) in zip(raw_samples, captioned, strict=True) if cause is None
        ]
        images = iter(self._images(usable))
        samples: list[Sample | None] = []
        for raw, (captions, cause) in zip(raw_samples, captioned, strict=True):
            skipped.num_seen += 1
            image = next(images) if cause is None else cause
            if isinstance(image, str):
                skipped.add(raw.row, image, self.shards[raw.source].name)
                samples.append(None)
            else:
                selected = select_captions(captions, raw.epoch)
                samples.append(Sample(raw.row, raw.source, raw.epoch, image, selected, raw.epoch))
        return samples

    def _captions(
        self, raw: RawSample, skipped: StreamSkipReport
    ) -> tuple[dict[str, list[str]], str | None]:
        """Usable captions by language, and if there are none although the run needs them, the first cause."""
        if self.tokens is None:
            return {}, None
        columns = self.caption_columns[raw.source]
        cells = {language: get_cell(raw.cells, column) for language, column in columns.items()}
        captions, causes = read_captions(cells, self.config.skip_wrong_script, skipped)
        return captions, None if captions else causes[0]

    def _images(self, raw_samples: Sequence[RawSample]) -> Sequence[Tensor | str | None]:
        """Images, or the cause of each that does not decode; None without images."""
        if self.image_size is None:
            return [None] * len(raw_samples)
        cells = []
        for raw in raw_samples:
            cell = raw.cells[self.image_columns[raw.source]]
            cells.append(self.rules[raw.source](cell))
        return decode_images(cells, self.image_size, self.squash)

    def collate(self, samples: Sequence[Sample], skipped: StreamSkipReport) -> Batch:
        """Make a batch."""
        batch = make_batch(samples, self.languages, self.tokens, text_id, self.config.phrasing)
        if self.tokens is not None:
            limit = self.tokens.max_text_length
            texts = [text for sample in samples for text in sample.captions.values()]
            lengths = zip(texts, batch["lengths"].tolist(), strict=True)
            full = [text for text, length in lengths if length >= limit]
            if num_cut := self.tokens.count_truncated(full):
                skipped.captions[f"cut to {limit} tokens"] += num_cut
        return batch


class StreamBatches(torch.utils.data.IterableDataset):
    """The batches of one training process as an iterable dataset. Each DataLoader worker yields every n-th batch.

    Args:
        pairs: Stream of images and captions.
        plan: Batches of the training process.
        num_workers: Number of decoding processes, at least 1; the training process counts if it decodes itself.
        states: State of each worker to resume from; empty to start at the beginning.
    """

    def __init__(
        self, pairs: PairStream, plan: BatchPlan, num_workers: int, states: Sequence[dict[str, Any]]
    ):
        super().__init__()
        self.pairs = pairs
        self.plan = plan
        self.num_workers = num_workers
        self.states = states

    def __iter__(self) -> Iterator[WorkerBatch]:
        info = torch.utils.data.get_worker_info()
        if info is not None:
            fsspec.asyn.reset_lock()  # a lock that was held while this process was forked would never be released
        first = self.plan.start + (info.id if info is not None else 0)
        schedule = self._open_streams(first % self.num_workers)
        for step in range(first, self.plan.stop, self.num_workers):
            # not kept in a variable, so that the training loop can release the images
            yield self._batch(step, schedule)

    def _open_streams(self, worker: int) -> MixtureSchedule:
        """Open the streams of a worker at their positions, and return the order of the sources."""
        config = self.pairs.config
        plan = self.plan
        self.worker = worker
        self.skipped = StreamSkipReport(max_share=config.max_skip_share)
        self.positions = [StreamPosition() for _ in self.pairs.shards]
        # the state is empty for a worker that has not made a batch yet
        if self.states and (state := self.states[worker]):
            self.positions = [StreamPosition(**position) for position in state["positions"]]
            self.skipped.merge([state["skipped"]])
        global_worker = plan.rank * self.num_workers + worker
        self.streams = []
        for shards, position in zip(self.pairs.shards, self.positions, strict=True):
            stream = shuffled_samples(
                shards,
                (plan.seed, shards.number),
                global_worker,
                plan.num_processes * self.num_workers,
                config.shuffle_buffer,
                position,
            )
            self.streams.append(stream)
        weights = [source.weight for source in config.mixture]
        return MixtureSchedule(weights, (plan.seed, global_worker))

    def _batch(self, step: int, schedule: MixtureSchedule) -> WorkerBatch:
        """Make the batch of a step. Steps must be requested in order, because the stream moves on."""
        size = self.plan.batch_size
        first = step // self.num_workers * size
        sources = [schedule(draw)[0] for draw in range(first, first + size)]
        batch = self.pairs.collate(self._samples(sources), self.skipped)
        self.plan.add_views(batch)
        state = {
            "positions": [asdict(position) for position in self.positions],
            "skipped": self.skipped.state(),
        }
        return self.worker, state, batch

    def _samples(self, sources: Sequence[int]) -> list[Sample]:
        """Take the next usable sample of each of these sources, which may contain duplicates."""
        samples: dict[int, Sample] = {}
        first_epoch: dict[int, int] = {}  # epoch of the first attempt for each index of the batch
        while missing := [index for index in range(len(sources)) if index not in samples]:
            raw_samples = [self._raw_sample(sources[n], first_epoch.get(n)) for n in missing]
            decoded = self.pairs.decode(raw_samples, self.skipped)
            for index, raw, sample in zip(missing, raw_samples, decoded, strict=True):
                first_epoch.setdefault(index, raw.epoch)
                if sample is not None:
                    samples[index] = sample
        return [samples[index] for index in range(len(sources))]

    def _raw_sample(self, source: int, first_epoch: int | None) -> RawSample:
        """Take the next sample of a source; raise ValueError if a whole epoch had no usable sample."""
        raw, self.positions[source] = next(self.streams[source])
        if first_epoch is not None and raw.epoch > first_epoch + 1:
            raise ValueError(
                f"data: {self.pairs.shards[source].name!r} has no usable sample ({self.skipped})."
            )
        return raw


class StreamLoader:
    """Batches of a stream. Every worker reads its own samples and sends its state with each batch.

    Takes the arguments of `make_loader`.

    Raises:
        ValueError: The states are from a different number of processes or workers.
    """

    def __init__(self, pairs: PairStream, plan: BatchPlan, states: Sequence[dict[str, Any]] = ()):
        workers = num_workers(pairs.config)
        num_streams = max(1, workers)
        self.skipped = pairs.skipped
        self._states: list[dict[str, Any]] = []  # one for each worker, after its last batch
        if plan.start:
            self._states = _worker_states(states, plan, num_streams)
            self._merge_skips()
        self._loader = data_loader(
            StreamBatches(pairs, plan, num_streams, list(self._states)),
            workers,
            plan.batch_size * image_bytes(pairs.image_size),
            batch_size=None,
        )
        self._states = self._states or [{}] * num_streams

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


def _worker_states(
    states: Sequence[dict[str, Any]], plan: BatchPlan, num_workers: int
) -> list[dict[str, Any]]:
    """Select the worker states of this process, after a check that the stream is divided as before."""
    before = [len(state.get(WORKER_STATES, ())) for state in states]
    if before != [num_workers] * plan.num_processes:
        raise ValueError(
            f"data: this stream was divided among {len(before)} processes with {before[0] if before else 0} decoding "
            f"processes each, and now among {plan.num_processes} with {num_workers}. Resume with as many processes "
            "and data.workers as before (0 counts as 1)."
        )
    return list(states[plan.rank][WORKER_STATES])
