"""Decoded images with tokenized captions, whose rows can be looked up."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from torch import Tensor

from training.config import DataConfig, SourceConfig
from training.data.batch import (
    Batch,
    CaptionTokenizer,
    Sample,
    make_batch,
    select_captions,
    texts_digest,
    usable_captions,
)
from training.data.images import decode_images, encoded_bytes, rules_for
from training.data.reader import evenly_spaced_rows, require_columns, require_images, require_texts
from training.data.sampling import BatchPlan, KeyedBatchSampler, SampleKey, data_loader
from training.data.skips import SkipReport

IDENTITY_ROWS = 256  # images that `identity` reads
FINGERPRINT_BATCH = 256  # images that are read at once
TOKENIZED_AT_ONCE = 8192

Attempt = tuple[
    SampleKey, Tensor | str | None
]  # a key, and its image or the cause why it does not decode


class CollatedBatch(Batch, total=False):
    """A batch with `skipped`: row number and cause of each image that did not decode."""

    skipped: list[tuple[int, str]]


class PairDataset(torch.utils.data.Dataset):
    """Decoded images with tokenized captions, from one source or a mixture. Rows are numbered over all sources.

    Args:
        rows: Rows of the source, or of each source of a mixture in order.
        config: Sources, their columns and limits.
        tokens: Tokenizer of the captions; None leaves captions out, and their columns may be missing.
        image_size: Edge S of the decoded images in pixels; None leaves images out, and their columns may be missing.
        squash: Whether images are resized to the square without a crop.

    Raises:
        ValueError: If a column is missing or a source has no usable row.
        SkipError: If too many rows have no usable caption.
    """

    def __init__(
        self,
        rows: Dataset | Sequence[Dataset],
        config: DataConfig,
        tokens: CaptionTokenizer | None,
        image_size: int | None,
        squash: bool = False,
    ):
        self.config, self.tokens, self.image_size, self.squash = config, tokens, image_size, squash
        self.languages = config.languages
        self._digests: dict[str, str] = {}
        tables = [
            self._select(table, source)
            for table, source in zip(
                [rows] if isinstance(rows, Dataset) else rows, config.mixture, strict=True
            )
        ]
        self.starts = np.cumsum(
            [0, *(len(table) for table in tables)]
        )  # (sources + 1,) first row of each source
        self.skipped = SkipReport(total=len(self), max_share=config.max_skip_share)
        self.captions: dict[int, dict[str, list[str]]] = {}
        self.images: list[tuple[Dataset, str]] = []
        self.rules = [rules_for(source.train, config.allow_paths) for source in config.mixture]
        for table, source, start in zip(tables, config.mixture, self.starts.tolist(), strict=False):
            if image_size is not None:
                column = source.image_column or config.image_column
                self.images.append(
                    (
                        table.select_columns([column]).cast_column(column, Image(decode=False)),
                        column,
                    )
                )
            if tokens is not None:
                self._check_captions(table, source.caption_columns or {}, start)
        texts = {
            text
            for captions in self.captions.values()
            for listed in captions.values()
            for text in listed
        }
        self.caption_ids = {text: number for number, text in enumerate(sorted(texts))}
        if tokens is not None:
            self._check_languages()
            self._count_lengths(tokens)
        self.skipped.num_known = len(self.skipped.causes)
        self.rows = [self._usable_rows(number) for number in range(len(tables))]
        num_kept, edge = (
            (len(self), image_size) if config.in_memory and image_size is not None else (0, 0)
        )
        # the system allocates this memory page by page when images are written to it
        self._memory = torch.empty(num_kept, 3, edge, edge, dtype=torch.uint8)
        self._in_memory = torch.zeros(num_kept, dtype=torch.bool)
        if (
            config.workers
        ):  # all decoding processes share the memory, which is then allocated at once
            self._memory.share_memory_()
            self._in_memory.share_memory_()

    def _select(self, rows: Dataset, source: SourceConfig) -> Dataset:
        """Check that a source has all columns of this run."""
        images = (
            [source.image_column or self.config.image_column] if self.image_size is not None else []
        )
        captions = list((source.caption_columns or {}).values()) if self.tokens is not None else []
        name = str(source.train)
        rows = require_columns(rows, [*images, *captions], name, "Name the right one under data.")
        require_images(rows.features, images, name)
        require_texts(rows.features, captions, name)
        return rows

    def _usable_rows(self, number: int) -> np.ndarray:
        """Usable rows of a source, in ascending order."""
        rows = range(*self.starts[number : number + 2].tolist())
        usable = [row for row in rows if row not in self.skipped.causes]
        if not usable:
            raise ValueError(
                f"data: {self.config.mixture[number].train!r} has no usable row ({self.skipped})."
            )
        return np.array(usable)

    def _check_captions(self, rows: Dataset, columns: dict[str, str], start: int):
        """Find the usable captions of each row of a source, count the others, and skip rows without a usable one."""
        cells = {language: _read_column(rows, column) for language, column in columns.items()}
        script_of = {
            language: language if self.config.skip_wrong_script else None for language in columns
        }
        for number in range(len(rows)):
            captions: dict[str, list[str]] = {}
            row_causes = []
            for language, column in cells.items():
                texts, causes = usable_captions(column[number], script_of[language])
                row_causes += causes
                self.skipped.add_captions(language, len(texts), causes)
                if texts:
                    captions[language] = texts
            self.captions[start + number] = captions
            if not captions:
                self.skipped.add(start + number, row_causes[0])

    def _check_languages(self):
        """Refuse data if too many captions of a language are damaged, or none is usable."""
        self.skipped.check_languages()
        for language in self.languages:
            if not self.skipped.usable[language]:
                raise ValueError(
                    f"data: {self.config.name!r} has no usable caption in {language!r} ({self.skipped}). Name the "
                    f"right column under data.caption_columns, or remove {language!r} there."
                )

    def _count_lengths(self, tokens: CaptionTokenizer):
        """Count captions that are truncated, and captions that the vocabulary's source splits differently."""
        texts = list(self.caption_ids)
        parts = range(0, len(texts), TOKENIZED_AT_ONCE)
        if num_cut := sum(
            tokens.count_truncated(texts[start : start + TOKENIZED_AT_ONCE]) for start in parts
        ):
            self.skipped.captions[f"cut to {tokens.max_text_length} tokens"] = num_cut
        if num_unaligned := tokens.find_unaligned(self.caption_ids):
            self.skipped.captions["split differently by the teacher, pooled target only"] = (
                num_unaligned
            )

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, row: int) -> Tensor | str | None:
        """Return the image of a row, (3, S, S) uint8, or the cause why it does not decode; None without images."""
        return self.load_images([row])[0]

    def load_images(self, rows: Sequence[int]) -> list[Tensor | str | None]:
        """Load the images of rows, which may repeat, from memory or by decoding them.

        Returns:
            For each row, in order, the image (3, S, S) uint8, or the cause why it does not decode; None in a run
            without images.
        """
        if self.image_size is None:
            return [None] * len(rows)
        absent = [
            row
            for row in dict.fromkeys(rows)
            if not (self.config.in_memory and self._in_memory[row])
        ]
        images = decode_images([self._cell(row) for row in absent], self.image_size, self.squash)
        decoded = dict(zip(absent, images, strict=True))
        if self.config.in_memory:
            for row, image in decoded.items():
                if isinstance(image, Tensor):
                    self._memory[row] = image
                    self._in_memory[row] = True
        return [decoded[row] if row in decoded else self._memory[row] for row in rows]

    def _cell(self, row: int) -> dict[str, Any] | str | None:
        """Return the undecoded image of a row, or the cause why it may not be opened."""
        source = self._source_of(row)
        table, column = self.images[source]
        return self.rules[source](table[int(row - self.starts[source])][column])

    def _source_of(self, row: int) -> int:
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def collate(
        self, samples: Sequence[tuple[int, int, int, Tensor | str | None]]
    ) -> CollatedBatch:
        """Make a batch of the samples whose images decode, and list the others under `skipped`.

        Args:
            samples: Row, view id, epoch, and image or the cause why it does not decode, as `load_images` returns it.

        Returns:
            The batch; only `skipped` if no image decodes.
        """
        decoded = [
            Sample(
                row,
                self._source_of(row),
                view_id,
                image,
                select_captions(self.captions.get(row, {}), epoch),
                epoch,
            )
            for row, view_id, epoch, image in samples
            if not isinstance(image, str)
        ]
        batch: CollatedBatch = {
            "skipped": [(row, image) for row, _, _, image in samples if isinstance(image, str)]
        }
        if decoded:
            tokens, phrasing = self.tokens, self.config.phrasing
            batch.update(
                make_batch(decoded, self.languages, tokens, self.caption_ids.__getitem__, phrasing)
            )
        return batch

    def image_fingerprint(self) -> str:
        """Return a digest of the encoded bytes of all images. It does not depend on the location of the data."""
        if "images" not in self._digests:
            digest = hashlib.blake2b(str(len(self)).encode(), digest_size=8)
            for (table, column), rules in zip(self.images, self.rules, strict=True):
                for batch in table.iter(FINGERPRINT_BATCH):
                    for cell in batch[column]:
                        content = encoded_bytes(rules(cell))
                        digest.update(len(content).to_bytes(8, "little"))
                        digest.update(content)
            self._digests["images"] = digest.hexdigest()
        return self._digests["images"]

    def identity(self) -> str:
        """Return a short description of the rows, captions and some images, which a resumed run compares."""
        digest = hashlib.blake2b(self.caption_fingerprint().encode(), digest_size=8)
        if self.images:
            for row in evenly_spaced_rows(len(self), IDENTITY_ROWS):
                digest.update(hashlib.blake2b(encoded_bytes(self._cell(row))).digest())
        return f"{len(self)} rows, {digest.hexdigest()}"

    def caption_fingerprint(self) -> str:
        """Return a digest of all different captions."""
        return texts_digest(self.caption_ids)


def _read_column(rows: Dataset, column: str) -> list[Any]:
    try:
        return rows[column][:]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"data: column {column!r} has a row that is not UTF-8 ({error}). Fix or remove it."
        ) from error


class RowLoader:
    """Batches of rows that can be looked up. The rows of a batch depend only on its step.

    Args:
        pairs: Images and captions.
        plan: Batches of this process.
        states: Rows that every training process had skipped at `plan.start`.
    """

    def __init__(self, pairs: PairDataset, plan: BatchPlan, states: Sequence[dict[str, Any]] = ()):
        self.skipped = pairs.skipped
        self.skipped.merge(states)
        rows = _Rows(pairs, plan)
        weights = [source.weight for source in pairs.config.mixture]
        sampler = KeyedBatchSampler(pairs.rows, weights, plan)
        self._loader = data_loader(
            rows, pairs.config.workers, batch_sampler=sampler, collate_fn=rows.collate
        )

    def __iter__(self) -> Iterator[Batch]:
        batch: CollatedBatch
        for batch in self._loader:
            for row, cause in batch.pop("skipped"):
                self.skipped.add(row, cause)
            yield batch

    def state(self) -> dict[str, Any]:
        """Return, as JSON, the rows skipped so far. The position is the step itself."""
        return self.skipped.state()


class _Rows(torch.utils.data.Dataset):
    """Loads samples by key in a DataLoader worker. An image that does not decode is replaced by the source's next row.

    Batches are therefore always full, and every process has a batch at every step.
    """

    def __init__(self, pairs: PairDataset, plan: BatchPlan):
        self.pairs, self.plan = pairs, plan

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[list[Attempt]]:
        """Load the sample of each key: all attempts. Only the last one is usable."""
        images = self.pairs.load_images([key.row for key in keys])
        return [self._attempts(key, image) for key, image in zip(keys, images, strict=True)]

    def _attempts(self, key: SampleKey, image: Tensor | str | None) -> list[Attempt]:
        rows = self.pairs.rows[key.source]
        first, attempts = int(np.searchsorted(rows, key.row)), [(key, image)]
        for position in range(first + 1, first + len(rows)):
            if not isinstance(attempts[-1][1], str):
                return attempts
            row = int(rows[position % len(rows)])
            attempts.append((key._replace(row=row), self.pairs[row]))
        if isinstance(attempts[-1][1], str):
            name = self.pairs.config.mixture[key.source].train
            raise ValueError(
                f"data: no image of {name!r} decodes ({attempts[0][1]}). Fix the data."
            )
        return attempts

    def collate(self, samples: list[list[Attempt]]) -> CollatedBatch:
        attempts = [
            (key.row, key.view_id, key.epoch, image) for sample in samples for key, image in sample
        ]
        batch = self.pairs.collate(attempts)
        self.plan.add_views(batch)
        return batch
