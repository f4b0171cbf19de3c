"""Decoded pictures with tokenized captions, or either alone."""

import hashlib
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from torch import Tensor

from training.config import DataConfig
from training.data.captions import CaptionTokens, usable_captions
from training.data.pictures import decode_picture, encoded_bytes
from training.data.skips import SkipReport
from training.data.sources import require_columns, sample_rows

FINGERPRINT_ROWS = 16384  # more rows than these are sampled
TOKENIZED_AT_ONCE = 8192


class PairDataset(torch.utils.data.Dataset):
    """Decoded pictures with tokenized captions.

    Args:
        rows: the source.
        config: its columns and limits.
        tokens: makes token ids; None leaves the captions out, and their columns need not be there.
        picture_size: edge S of the decoded pictures, in pixels; None leaves the pictures out, likewise.

    Raises:
        ValueError: a column is missing.
        SkipError: too many rows have no usable caption.
    """

    def __init__(self, rows: Dataset, config: DataConfig, tokens: CaptionTokens | None, picture_size: int | None):
        wanted = [config.image_column] if picture_size is not None else []
        wanted += config.caption_columns.values() if tokens is not None else []
        rows = require_columns(rows, wanted, config.train, "Name the right one under data.")
        self.config, self.tokens, self.picture_size, self.num_rows = config, tokens, picture_size, len(rows)
        self.languages = list(config.caption_columns)
        self.skipped = SkipReport(len(rows), config.max_skip_share)
        if picture_size is not None:
            column = rows.select_columns([config.image_column])
            self.pictures = column.cast_column(config.image_column, Image(decode=False))
        self.captions = self._check_captions(rows) if tokens is not None else {}
        self.caption_ids = {text: number for number, text in enumerate(sorted(self._all_texts()))}
        if tokens is not None and self.caption_ids:
            self._count_lengths(tokens)
        self.usable_rows = np.array([row for row in range(len(rows)) if row not in self.skipped.causes])
        if not len(self.usable_rows):
            raise ValueError(f"data: {config.train!r} has no usable row ({self.skipped}).")
        kept, edge = (len(rows), picture_size) if config.in_memory and picture_size is not None else (0, 0)
        # taken page by page as pictures come
        self._memory = torch.empty(kept, 3, edge, edge, dtype=torch.uint8)
        self._in_memory = torch.zeros(kept, dtype=torch.bool)
        if config.workers:  # every decoding process fills and reads the same memory, which takes all of it at once
            self._memory.share_memory_()
            self._in_memory.share_memory_()

    def _all_texts(self) -> set[str]:
        return {text for captions in self.captions.values() for texts in captions.values() for text in texts}

    def _check_captions(self, rows: Dataset) -> dict[int, dict[str, list[str]]]:
        """Captions of every row by language; what is unusable is counted, and a row without any is skipped."""
        columns = {language: rows[column][:] for language, column in self.config.caption_columns.items()}
        captions: dict[int, dict[str, list[str]]] = {}
        for row in range(len(rows)):
            captions[row], causes = {}, []
            for language, column in columns.items():
                texts, lost = usable_captions(column[row])
                causes += lost
                self.skipped.captions.update(f"{cause} ({language})" for cause in lost)
                if texts:
                    captions[row][language] = texts
            if not captions[row]:
                self.skipped.add(row, causes[0])
        return captions

    def _count_lengths(self, tokens: CaptionTokens):
        texts = list(self.caption_ids)
        num_cut = 0
        for start in range(0, len(texts), TOKENIZED_AT_ONCE):
            ids = tokens.tokenizer(texts[start : start + TOKENIZED_AT_ONCE]).input_ids
            num_cut += sum(len(row) > tokens.max_text_length for row in ids)
        if num_cut:
            self.skipped.captions[f"cut to {tokens.max_text_length} tokens"] = num_cut
        if num_unaligned := tokens.find_unaligned(self.caption_ids):
            self.skipped.captions["read in other pieces than the teacher's, pooled target only"] = num_unaligned

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, row: int) -> Tensor | str | None:
        """The picture (3, S, S) uint8, or the reason why there is none; None where no pictures are wanted."""
        if self.picture_size is None:
            return None
        if self.config.in_memory and self._in_memory[row]:
            return self._memory[row]
        picture = decode_picture(self.pictures[row][self.config.image_column], self.picture_size)
        if self.config.in_memory and isinstance(picture, Tensor):
            self._memory[row] = picture
            self._in_memory[row] = True
        return picture

    def collate(self, samples: list[tuple[int, int, Tensor | str | None]]) -> dict[str, Any]:
        """Batch (row, view, picture) triples; pictures that did not decode are left to the caller under `skipped`."""
        kept = [sample for sample in samples if not isinstance(sample[2], str)]
        batch: dict[str, Any] = {
            "skipped": [(row, picture) for row, _, picture in samples if isinstance(picture, str)]
        }
        if not kept:
            return batch
        batch["rows"] = torch.tensor([row for row, _, _ in kept])
        batch["views"] = torch.tensor([view for _, view, _ in kept])
        if self.picture_size is not None:
            batch["pictures"] = torch.stack([picture for _, _, picture in kept])
        if self.tokens is not None:
            batch |= self._captions_of([(row, view) for row, view, _ in kept], self.tokens)
        return batch

    def _captions_of(self, keys: list[tuple[int, int]], tokens: CaptionTokens) -> dict[str, Tensor]:
        texts, owners, languages = [], [], []
        for owner, (row, view) in enumerate(keys):
            for language, choices in self.captions[row].items():
                texts.append(choices[view % len(choices)])  # several captions take turns
                owners.append(owner)
                languages.append(self.languages.index(language))
        return tokens(texts) | {
            "owner": torch.tensor(owners),
            "language": torch.tensor(languages),
            "caption_ids": torch.tensor([self.caption_ids[text] for text in texts]),
        }

    def picture_fingerprint(self) -> str:
        """A digest of how many pictures there are and of their encoded bytes; of more than `FINGERPRINT_ROWS`, evenly
        spaced ones. It is the same wherever the data lie.
        """
        digest = hashlib.blake2b(str(len(self)).encode(), digest_size=8)
        for row in sample_rows(len(self), FINGERPRINT_ROWS):
            digest.update(encoded_bytes(self.pictures[row][self.config.image_column]))
        return digest.hexdigest()

    def caption_fingerprint(self) -> str:
        """A digest of all captions."""
        return hashlib.blake2b("\n".join(self.caption_ids).encode(), digest_size=8).hexdigest()
