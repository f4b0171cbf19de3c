"""Decoded images with tokenized captions from streams, batch by batch, on any number of processes."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import fsspec.asyn
import torch
from torch import Tensor

from training.config import DataConfig
from training.data.captions import CaptionTokens, caption_id, usable_captions
from training.data.images import decode_images, image_cell
from training.data.samples import Sample, make_batch, take_turns
from training.data.skips import StreamSkips
from training.data.sources import open_stream
from training.data.stream import Raw, Shards, ShuffledLane, StreamPosition, get_cell
from training.data.turns import Group, Order, Turns, make_groups


class PairStream:
    """Decoded images with tokenized captions, from one stream or a mixture. It knows no row numbers and no length:
    what was seen of it is one pass after another.

    Args:
        config: the sources, their columns and limits.
        tokens: makes token ids; None leaves the captions out, and their columns need not be there.
        image_size: edge S of the decoded images, in pixels; None leaves the images out, likewise.

    Raises:
        ValueError: there is no such source, it is empty, or a column is missing.
    """

    def __init__(self, config: DataConfig, tokens: CaptionTokens | None, image_size: int | None):
        self.config, self.tokens, self.image_size = config, tokens, image_size
        self.languages, self.columns = (
            config.languages,
            [dict(source.caption_columns or {}) for source in config.mixture],
        )
        self.skipped = StreamSkips(config.max_skip_share)
        self.image_columns = [source.image_column or config.image_column for source in config.mixture]
        self.shards = [
            Shards(
                open_stream(source.train, source.split or config.split, source.subset),
                number,
                str(source.train),
                self.image_columns[number] if image_size is not None else None,
                self.columns[number].values() if tokens is not None else (),
            )
            for number, source in enumerate(config.mixture)
        ]
        self.groups = make_groups(config)

    def samples(self, raws: Sequence[tuple[Raw, Group]], skipped: StreamSkips) -> list[Sample | None]:
        """One sample each, in order, or None where it had to be skipped, which is counted."""
        read = [self._captions(raw, group) for raw, group in raws]
        images: dict[int, Tensor | str] = {}
        if self.image_size is not None:
            wanted = [number for number, (captions, _) in enumerate(read) if captions or self.tokens is None]
            cells = [self._image_cell(*raws[number]) for number in wanted]
            images = dict(zip(wanted, decode_images(cells, self.image_size), strict=True))
        samples: list[Sample | None] = []
        for number, ((raw, group), (captions, lost)) in enumerate(zip(raws, read, strict=True)):
            skipped.seen += 1
            skipped.captions.update(f"{cause} ({language})" for language, cause in lost)
            image = images.get(number)
            if isinstance(image, str) or (self.tokens is not None and not captions):
                cause = image if isinstance(image, str) else lost[0][1]
                skipped.add(raw.row, cause, self.shards[group.source].name)
                samples.append(None)
            else:
                turn = take_turns(captions, raw.epoch, group.languages)
                samples.append(Sample(raw.row, raw.epoch, image, turn))
        return samples

    def _image_cell(self, raw: Raw, group: Group) -> dict[str, Any] | None:
        return image_cell(raw.cells[self.image_columns[group.source]])

    def _captions(self, raw: Raw, group: Group) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
        """Usable captions by language, and the language and cause of those that are not."""
        captions: dict[str, list[str]] = {}
        lost: list[tuple[str, str]] = []
        if self.tokens is not None:
            for language in group.languages:
                cell = get_cell(raw.cells, self.columns[group.source][language])
                texts, causes = usable_captions(cell, language if self.config.skip_wrong_script else None)
                lost += [(language, cause) for cause in causes]
                if texts:
                    captions[language] = texts
        return captions, lost

    def collate(self, samples: Sequence[Sample], skipped: StreamSkips) -> dict[str, Tensor]:
        """The batch dict; captions that are longer than the tower reads are counted."""
        batch = make_batch(samples, self.languages, self.tokens, caption_id)
        if self.tokens is not None:
            full = (batch["attention_mask"].sum(1) >= self.tokens.max_text_length).tolist()
            texts = [text for sample in samples for text in sample.captions.values()]
            if cut := self.tokens.count_cut([text for text, is_full in zip(texts, full, strict=True) if is_full]):
                skipped.captions[f"cut to {self.tokens.max_text_length} tokens"] += cut
        return batch


class Lane:
    """What one decoding process of one training process makes of a stream: every n-th of its batches.

    Args:
        pairs: the data.
        order: of the training process; `num_lanes` of its lanes take turns, step by step.
        number: of this lane in its training process.
        num_lanes: of these.
        state: as `state` gave it; None begins at the beginning.
    """

    def __init__(self, pairs: PairStream, order: Order, number: int, num_lanes: int, state: dict[str, Any] | None):
        self.pairs, self.order, self.num_lanes = pairs, order, num_lanes
        lane = order.rank * num_lanes + number
        positions = (
            [StreamPosition(**position) for position in state["positions"]]
            if state
            else [StreamPosition() for _ in pairs.groups]
        )
        self.skipped = StreamSkips(pairs.config.max_skip_share)
        if state:
            self.skipped.merge([state["skipped"]])
        self.homogeneous = pairs.config.batches != "mixed"
        weights = [group.weight for group in pairs.groups]
        # all processes agree on the group of a whole batch; within one, each lane takes its own turns
        self.turns = Turns(weights, (order.seed,) if self.homogeneous else (order.seed, lane))
        total = order.num_processes * num_lanes
        self.streams = [
            ShuffledLane(
                pairs.shards[group.source], (order.seed, number), lane, total, pairs.config.shuffle_buffer, position
            )
            for number, (group, position) in enumerate(zip(pairs.groups, positions, strict=True))
        ]

    def state(self) -> dict[str, Any]:
        """Where it is, as JSON."""
        return {"positions": [asdict(stream.position) for stream in self.streams], "skipped": self.skipped.state()}

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of a step of this lane; they must be asked for in order."""
        size = self.order.batch_size
        first = step // self.num_lanes * size
        numbers = [self.turns(step if self.homogeneous else place)[0] for place in range(first, first + size)]
        return self.pairs.collate(self._samples(numbers), self.skipped)

    def _samples(self, numbers: Sequence[int]) -> list[Sample]:
        """The next usable sample of each of these groups, which may be named more than once."""
        samples: dict[int, Sample] = {}
        first: dict[int, int] = {}  # epoch in which a place was tried first
        while left := [place for place in range(len(numbers)) if place not in samples]:
            raws = [self._raw(numbers[place], first.get(place)) for place in left]
            for place, (raw, _), sample in zip(left, raws, self.pairs.samples(raws, self.skipped), strict=True):
                first.setdefault(place, raw.epoch)
                if sample is not None:
                    samples[place] = sample
        return [samples[place] for place in range(len(numbers))]

    def _raw(self, number: int, first: int | None) -> tuple[Raw, Group]:
        """The next row of a group, unless nothing was usable since a whole epoch."""
        group, raw = self.pairs.groups[number], next(self.streams[number])
        if first is not None and raw.epoch > first + 1:
            raise ValueError(f"data: {self.pairs.shards[group.source].name!r} has no usable sample ({self.skipped}).")
        return raw, group


class LaneBatches(torch.utils.data.IterableDataset):
    """The batches of one training process, as a DataLoader wants them: each worker gives every n-th.

    Args:
        pairs: the data.
        order: of the training process.
        num_lanes: decoding processes, at least 1.
        states: of the lanes; empty at the beginning.
    """

    def __init__(self, pairs: PairStream, order: Order, num_lanes: int, states: Sequence[dict[str, Any]]):
        super().__init__()
        self.pairs, self.order, self.num_lanes, self.states = pairs, order, num_lanes, states

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = torch.utils.data.get_worker_info()
        if info is not None:
            fsspec.asyn.reset_lock()  # a lock that was held when this process was forked would be held for ever
        first = self.order.start + (info.id if info is not None else 0)
        number = first % self.num_lanes
        lane = Lane(self.pairs, self.order, number, self.num_lanes, self.states[number] if self.states else None)
        for step in range(first, self.order.stop, self.num_lanes):
            yield lane.batch(step) | {"lane": number, "state": lane.state()}
