"""Decoded images with tokenized captions from streams of any size."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from training.config import DataConfig
from training.data.batch import Batch
from training.data.captions import EXPECTED_CAUSES, CaptionTokenizer, usable_captions
from training.data.images import decode_images
from training.data.named_images import rules_for
from training.data.samples import Sample, make_batch, select_captions
from training.data.sampling import SampleGroup, make_groups
from training.data.shard_stream import RawSample, Shards, get_cell
from training.data.skips import MIN_SEEN, StreamSkipReport
from training.data.sources import open_stream
from training.text.identity import text_id


class PairStream:
    """Decoded images with tokenized captions, from one stream or a mixture.

    A stream has no length and no table of rows; it can only be read in the order of its shards. `make_loader` makes
    batches of it, and `WorkerStream` does the work in each decoding process.

    Args:
        config: Sources, their columns and limits.
        tokens: Tokenizer of the captions; None leaves captions out, and their columns may be missing.
        image_size: Edge S of the decoded images in pixels; None leaves images out, and their columns may be missing.
        squash: Whether images are resized to the square without a crop.

    Raises:
        ValueError: If a source cannot be opened or is empty, or a column is missing.
    """

    def __init__(
        self, config: DataConfig, tokens: CaptionTokenizer | None, image_size: int | None, squash: bool = False
    ):
        self.config, self.tokens, self.image_size, self.squash = config, tokens, image_size, squash
        self.languages = config.languages
        self.caption_columns = [dict(source.caption_columns or {}) for source in config.mixture]
        self.image_columns = [source.image_column or config.image_column for source in config.mixture]
        self.rules = [rules_for(source.train, config.allow_urls, config.allow_paths) for source in config.mixture]
        self.skipped = StreamSkipReport(config.max_skip_share)
        self.shards = [
            Shards(
                open_stream(source.train, source.split or config.split, source.subset),
                number,
                str(source.train),
                self.image_columns[number] if image_size is not None else None,
                self.caption_columns[number].values() if tokens is not None else (),
            )
            for number, source in enumerate(config.mixture)
        ]
        self.groups = make_groups(config)

    def identity(self) -> str:
        """Return a short description of the streams, which a resumed run compares: the shards of each source."""
        return ", ".join(f"{shards.name}: {len(shards)} shards" for shards in self.shards)

    def decode(
        self, raw_samples: Sequence[tuple[RawSample, SampleGroup]], skipped: StreamSkipReport
    ) -> list[Sample | None]:
        """Decode samples.

        Args:
            raw_samples: Undecoded samples, each with its group.
            skipped: Report to which skipped samples are added.

        Returns:
            One sample for each raw sample, in order; None for those that were skipped.
        """
        found = [self._captions(raw, group) for raw, group in raw_samples]
        images: dict[int, Tensor | str] = {}
        if self.image_size is not None:
            numbers = [number for number, (captions, _) in enumerate(found) if captions or self.tokens is None]
            cells = [self._image_cell(*raw_samples[number]) for number in numbers]
            images = dict(zip(numbers, decode_images(cells, self.image_size, self.squash), strict=True))
        samples: list[Sample | None] = []
        skipped.languages.check(MIN_SEEN)
        for number, ((raw, group), (captions, causes)) in enumerate(zip(raw_samples, found, strict=True)):
            skipped.num_seen += 1
            skipped.captions.update(f"{cause} ({language})" for language, cause in causes)
            for language, texts in captions.items():
                skipped.languages.add(language, len(texts), 0)
            for language, cause in causes:
                skipped.languages.add(language, 0, cause not in EXPECTED_CAUSES)
            image = images.get(number)
            if isinstance(image, str) or (self.tokens is not None and not captions):
                cause = image if isinstance(image, str) else causes[0][1]
                skipped.add(raw.row, cause, self.shards[group.source].name)
                samples.append(None)
            else:
                selected = select_captions(captions, raw.epoch, group.languages)
                samples.append(Sample(raw.row, group.source, raw.epoch, image, selected))
        return samples

    def _image_cell(self, raw: RawSample, group: SampleGroup) -> dict[str, Any] | str | None:
        return self.rules[group.source](raw.cells[self.image_columns[group.source]])

    def _captions(self, raw: RawSample, group: SampleGroup) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
        """Usable captions by language, and (language, cause) of each unusable caption."""
        captions: dict[str, list[str]] = {}
        unusable: list[tuple[str, str]] = []
        if self.tokens is not None:
            for language in group.languages:
                cell = get_cell(raw.cells, self.caption_columns[group.source][language])
                texts, causes = usable_captions(cell, language if self.config.skip_wrong_script else None)
                unusable += [(language, cause) for cause in causes]
                if texts:
                    captions[language] = texts
        return captions, unusable

    def collate(self, samples: Sequence[Sample], skipped: StreamSkipReport) -> Batch:
        """Make a batch.

        Args:
            samples: Decoded samples, at least one.
            skipped: Report to which truncated captions are added.
        """
        batch = make_batch(samples, self.languages, self.tokens, text_id)
        if self.tokens is not None:
            full = (batch["attention_mask"].sum(1) >= self.tokens.max_text_length).tolist()
            texts = [text for sample in samples for text in sample.captions.values()]
            if num_cut := self.tokens.count_truncated(
                [text for text, is_full in zip(texts, full, strict=True) if is_full]
            ):
                skipped.captions[f"cut to {self.tokens.max_text_length} tokens"] += num_cut
        return batch
