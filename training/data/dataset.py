"""Decoded images with tokenized captions, whose rows can be looked up."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
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
from training.data.captions import CaptionTable
from training.data.images import decode_images, digest_images, encoded_bytes
from training.data.reader import evenly_spaced_rows, require_columns, rules_for
from training.data.sampling import (
    BatchPlan,
    KeyedBatchSampler,
    SampleKey,
    data_loader,
    image_bytes,
    num_workers,
)
from training.data.skips import SkipReport
from training.text.vocabulary import chunks
from training.utils.keys import Digest

IDENTITY_ROWS = 256  # images that `identity` reads

# row, view id, epoch, and the image or the cause why it does not decode
Attempt = tuple[int, int, int, Tensor | str | None]


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
        self.config = config
        self.tokens = tokens
        self.image_size = image_size
        self.squash = squash
        self.languages = config.languages
        rows_by_source = [rows] if isinstance(rows, Dataset) else rows
        tables = []
        columns = []
        self.images: list[tuple[Dataset, str]] = []
        self.rules = []
        for table, source in zip(rows_by_source, config.mixture, strict=True):
            column = source.image_column or config.image_column
            captions = source.caption_columns or {}
            images = [column] if image_size is not None else []
            texts = captions.values() if tokens is not None else ()
            table = require_columns(table, images, texts, str(source.train))
            if images:
                cells = table.select_columns(images).cast_column(column, Image(decode=False))
                self.images.append((cells, column))
            tables.append(table)
            columns.append(captions)
            self.rules.append(rules_for(source.train, config.allow_paths))
        self.starts = np.cumsum([0, *map(len, tables)])  # (sources + 1,) first row of each source
        self.skipped = SkipReport(total=len(self), max_share=config.max_skip_share)
        self.captions: CaptionTable | None = None
        if tokens is not None:
            self.captions = CaptionTable(tables, columns, config.skip_wrong_script, self.skipped)
            self._check_languages()
            self._count_lengths(tokens, self.captions)
        self.skipped.num_known = len(self.skipped.causes)
        self.rows = [self._usable_rows(number) for number in range(len(tables))]
        shape: tuple[int, ...] = (0,)
        if config.in_memory and image_size is not None:
            shape = (len(self), 3, image_size, image_size)
        # the system allocates this memory page by page when images are written to it
        self._memory = torch.empty(shape, dtype=torch.uint8)
        self._in_memory = torch.zeros(shape[:1], dtype=torch.bool)
        if num_workers(config):  # they share the memory, which is then allocated at once
            self._memory.share_memory_()
            self._in_memory.share_memory_()

    def _usable_rows(self, number: int) -> np.ndarray:
        """Usable rows of a source, in ascending order."""
        rows = np.arange(*self.starts[number : number + 2])
        usable = np.setdiff1d(rows, list(self.skipped.causes), assume_unique=True)
        if not len(usable):
            raise ValueError(
                f"data: {self.config.mixture[number].train!r} has no usable row ({self.skipped})."
            )
        return usable

    def _check_languages(self):
        """Refuse data if too many captions of a language are damaged, or none is usable."""
        self.skipped.check_languages()
        for language in self.languages:
            if not self.skipped.usable[language]:
                raise ValueError(
                    f"data: {self.config.name!r} has no usable caption in {language!r} ({self.skipped}). Name the "
                    f"right column under data.caption_columns, or remove {language!r} there."
                )

    def _count_lengths(self, tokens: CaptionTokenizer, captions: CaptionTable):
        """Count captions that are truncated, and captions that the vocabulary's source splits differently."""
        if num_cut := sum(map(tokens.count_truncated, chunks(captions))):
            self.skipped.captions[f"cut to {tokens.max_text_length} tokens"] = num_cut
        if num_unaligned := tokens.find_unaligned(captions):
            cause = "split differently by the teacher, pooled target only"
            self.skipped.captions[cause] = num_unaligned

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
        keeps = self.config.in_memory
        absent = [row for row in dict.fromkeys(rows) if not (keeps and self._in_memory[row])]
        images = decode_images([self._cell(row) for row in absent], self.image_size, self.squash)
        decoded = dict(zip(absent, images, strict=True))
        for row, image in decoded.items():
            if keeps and isinstance(image, Tensor):
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

    def collate(self, samples: Sequence[Attempt]) -> CollatedBatch:
        """Make a batch of the samples whose images decode, and list the others under `skipped`.

        Args:
            samples: Row, view id, epoch, and image or the cause why it does not decode, as `load_images` returns it.

        Returns:
            The batch; only `skipped` if no image decodes.
        """
        batch: CollatedBatch = {"skipped": []}
        usable = []
        for row, view_id, epoch, image in samples:
            if isinstance(image, str):
                batch["skipped"].append((row, image))
                continue
            captions = {} if self.captions is None else self.captions.read(row)
            chosen = select_captions(captions, epoch)
            usable.append(Sample(row, self._source_of(row), view_id, image, chosen, epoch))
        if usable:
            number_of = text_id if self.captions is None else self.captions.number_of
            phrasing = self.config.phrasing
            batch.update(make_batch(usable, self.languages, self.tokens, number_of, phrasing))
        return batch

    def image_fingerprint(self) -> str:
        """Return a digest of the encoded bytes of all images. It does not depend on the location of the data."""
        digest = Digest()
        for (rows, column), rules in zip(self.images, self.rules, strict=True):
            digest.add(digest_images(rows, column, rules))
        return digest.hex()

    def identity(self) -> str:
        """Return a short description of the rows, captions and some images, which a resumed run compares."""
        digest = Digest().add(self.caption_fingerprint())
        if self.images:
            for row in evenly_spaced_rows(len(self), IDENTITY_ROWS):
                digest.add(encoded_bytes(self._cell(row)))
        return f"{len(self)} rows, {digest.hex()}"

    def caption_fingerprint(self) -> str:
        """Return a digest of all different captions."""
        return self.captions.digest() if self.captions is not None else ""


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
            rows,
            num_workers(pairs.config),
            plan.batch_size * image_bytes(pairs.image_size),
            batch_sampler=sampler,
            collate_fn=rows.collate,
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
        self.pairs = pairs
        self.plan = plan

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[Attempt]:
        """Load the sample of each key: all attempts, of which the last one is usable."""
        images = self.pairs.load_images([key.row for key in keys])
        attempts = map(self._attempts, keys, images)
        return list(chain.from_iterable(attempts))

    def _attempts(self, key: SampleKey, image: Tensor | str | None) -> Iterator[Attempt]:
        rows = self.pairs.rows[key.source]
        first = int(np.searchsorted(rows, key.row))
        for position in range(first + 1, first + len(rows) + 1):
            yield key.row, key.view_id, key.epoch, image
            if not isinstance(image, str):
                return
            key = key._replace(row=int(rows[position % len(rows)]))
            image = self.pairs[key.row]
        name = self.pairs.config.mixture[key.source].train
        raise ValueError(f"data: no image of {name!r} decodes ({image}). Fix the data.")

    def collate(self, attempts: list[Attempt]) -> CollatedBatch:
        batch = self.pairs.collate(attempts)
        self.plan.add_views(batch)
        return batch
