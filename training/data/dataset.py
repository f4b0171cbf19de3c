"""Decoded images with tokenized captions, or either alone."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from torch import Tensor

from training.config import DataConfig, SourceConfig
from training.data.captions import CaptionTokens, usable_captions
from training.data.images import decode_images, encoded_bytes
from training.data.samples import Sample, make_batch, take_turns
from training.data.skips import SkipReport
from training.data.sources import require_columns, sample_rows
from training.data.turns import Group, make_groups

FINGERPRINT_ROWS = 16384  # more rows than these are sampled
TOKENIZED_AT_ONCE = 8192


class PairDataset(torch.utils.data.Dataset):
    """Decoded images with tokenized captions, from one source or a mixture, whose rows are counted through.

    Args:
        rows: the source, or those of a mixture in their order.
        config: their columns and limits.
        tokens: makes token ids; None leaves the captions out, and their columns need not be there.
        image_size: edge S of the decoded images, in pixels; None leaves the images out, likewise.

    Raises:
        ValueError: a column is missing.
        SkipError: too many rows have no usable caption.
    """

    def __init__(
        self,
        rows: Dataset | Sequence[Dataset],
        config: DataConfig,
        tokens: CaptionTokens | None,
        image_size: int | None,
    ):
        self.config, self.tokens, self.image_size = config, tokens, image_size
        self.languages = config.languages
        tables = [
            self._select(table, source)
            for table, source in zip([rows] if isinstance(rows, Dataset) else rows, config.mixture, strict=True)
        ]
        self.starts = np.cumsum([0, *(len(table) for table in tables)])  # (sources + 1,) first row of each
        self.skipped = SkipReport(len(self), config.max_skip_share)
        self.captions: dict[int, dict[str, list[str]]] = {}
        self.images: list[tuple[Dataset, str]] = []
        for table, source, start in zip(tables, config.mixture, self.starts.tolist(), strict=False):
            if image_size is not None:
                column = source.image_column or config.image_column
                self.images.append((table.select_columns([column]).cast_column(column, Image(decode=False)), column))
            if tokens is not None:
                self._check_captions(table, source.caption_columns or {}, start)
        self.caption_ids = {text: number for number, text in enumerate(sorted(self._all_texts()))}
        if tokens is not None and self.caption_ids:
            self._count_lengths(tokens)
        self.skipped.num_known = len(self.skipped.causes)
        self.groups = [self._with_rows(group) for group in make_groups(config)]
        kept, edge = (len(self), image_size) if config.in_memory and image_size is not None else (0, 0)
        # taken page by page as images come
        self._memory = torch.empty(kept, 3, edge, edge, dtype=torch.uint8)
        self._in_memory = torch.zeros(kept, dtype=torch.bool)
        if config.workers:  # every decoding process fills and reads the same memory, which takes all of it at once
            self._memory.share_memory_()
            self._in_memory.share_memory_()

    def _select(self, rows: Dataset, source: SourceConfig) -> Dataset:
        """The rows, if they have the columns that are wanted."""
        wanted = [source.image_column or self.config.image_column] if self.image_size is not None else []
        wanted += (source.caption_columns or {}).values() if self.tokens is not None else []
        return require_columns(rows, wanted, str(source.train), "Name the right one under data.")

    def _with_rows(self, group: Group) -> Group:
        """A group with its usable rows."""
        rows = range(*self.starts[group.source : group.source + 2].tolist())
        usable = [row for row in rows if row not in self.skipped.causes]
        if self.tokens is not None:
            usable = [row for row in usable if not self.captions[row].keys().isdisjoint(group.languages)]
        if not usable:
            name, languages = self.config.mixture[group.source].train, " or ".join(group.languages)
            raise ValueError(f"data: {name!r} has no usable row with a caption in {languages} ({self.skipped}).")
        return group._replace(rows=np.array(usable))

    def _all_texts(self) -> set[str]:
        return {text for captions in self.captions.values() for texts in captions.values() for text in texts}

    def _check_captions(self, rows: Dataset, columns: dict[str, str], start: int):
        """Captions of every row of a source by language; what is unusable is counted, and a row without any is
        skipped.
        """
        cells = {language: rows[column][:] for language, column in columns.items()}
        script_of = {language: language if self.config.skip_wrong_script else None for language in columns}
        for number in range(len(rows)):
            found: dict[str, list[str]] = {}
            causes = []
            for language, column in cells.items():
                texts, lost = usable_captions(column[number], script_of[language])
                causes += lost
                self.skipped.captions.update(f"{cause} ({language})" for cause in lost)
                if texts:
                    found[language] = texts
            self.captions[start + number] = found
            if not found:
                self.skipped.add(start + number, causes[0])

    def _count_lengths(self, tokens: CaptionTokens):
        texts = list(self.caption_ids)
        parts = range(0, len(texts), TOKENIZED_AT_ONCE)
        if num_cut := sum(tokens.count_cut(texts[start : start + TOKENIZED_AT_ONCE]) for start in parts):
            self.skipped.captions[f"cut to {tokens.max_text_length} tokens"] = num_cut
        if num_unaligned := tokens.find_unaligned(self.caption_ids):
            self.skipped.captions["read in other pieces than the teacher's, pooled target only"] = num_unaligned

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, row: int) -> Tensor | str | None:
        """The image (3, S, S) uint8, or the reason why there is none; None where no images are wanted."""
        return self.look_up([row])[0]

    def look_up(self, rows: Sequence[int]) -> list[Tensor | str | None]:
        """The same of many rows, in order."""
        if self.image_size is None:
            return [None] * len(rows)
        absent = [row for row in dict.fromkeys(rows) if not (self.config.in_memory and self._in_memory[row])]
        decoded = dict(zip(absent, decode_images([self._cell(row) for row in absent], self.image_size), strict=True))
        if self.config.in_memory:
            for row, image in decoded.items():
                if isinstance(image, Tensor):
                    self._memory[row] = image
                    self._in_memory[row] = True
        return [decoded[row] if row in decoded else self._memory[row] for row in rows]

    def _cell(self, row: int) -> dict[str, Any]:
        """The encoded image of a row."""
        source = int(np.searchsorted(self.starts, row, side="right")) - 1
        table, column = self.images[source]
        return table[int(row - self.starts[source])][column]

    def collate(
        self, samples: Sequence[tuple[int, int, Tensor | str | None]], languages: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """The batch dict; images that did not decode are left to the caller under `skipped`.

        Args:
            samples: (row, view, image or the reason why there is none).
            languages: to take captions in; None takes all.
        """
        kept = [
            Sample(row, view, image, take_turns(self.captions.get(row, {}), view, languages or self.languages))
            for row, view, image in samples
            if not isinstance(image, str)
        ]
        batch = make_batch(kept, self.languages, self.tokens, self.caption_ids.__getitem__) if kept else {}
        return batch | {"skipped": [(row, image) for row, _, image in samples if isinstance(image, str)]}

    def image_fingerprint(self) -> str:
        """A digest of how many images there are and of their encoded bytes; of more than `FINGERPRINT_ROWS`, evenly
        spaced ones. It is the same wherever the data lie.
        """
        digest = hashlib.blake2b(str(len(self)).encode(), digest_size=8)
        for row in sample_rows(len(self), FINGERPRINT_ROWS):
            digest.update(encoded_bytes(self._cell(row)))
        return digest.hexdigest()

    def caption_fingerprint(self) -> str:
        """A digest of all captions."""
        return hashlib.blake2b("\n".join(self.caption_ids).encode(), digest_size=8).hexdigest()
