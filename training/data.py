"""From a source of pictures and captions to batches.

A batch is one dict:

    pictures        (B, 3, S, S) uint8, decoded, short side resized to S, centre-cropped
    picture_ids     (B,) int64, row of the picture in the source
    views           (B,) int64, number of the random view to take of each picture
    input_ids       (T, L) int64, the captions of these pictures in all languages, student tokens
    attention_mask  (T, L) int64
    owner           (T,) int64, which picture of the batch a caption belongs to
    caption_ids     (T,) int64, equal for equal captions
    language        (T,) int64, index into `languages`
    teacher_input_ids, teacher_attention_mask   only where the teacher has another tokenizer
"""

import importlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Image, load_dataset
from PIL import Image as PILImage
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from training.config import DataConfig


def load_source(source: str, split: str = "train") -> Dataset:
    """Load rows from wherever they lie.

    Args:
        source: a parquet file or glob, a folder that `datasets` understands (such as an image folder with metadata), a
            Hub id, or `module:function` that returns a `datasets.Dataset`.
        split: which split to take where there are several.

    Raises:
        ValueError: there is no such source.
    """
    path = Path(source).expanduser()
    try:
        if ":" in source and not path.exists():
            module, function = source.split(":")
            return getattr(importlib.import_module(module), function)()
        if source.endswith(".parquet"):
            return load_dataset("parquet", data_files=str(path), split="train")
        rows = load_dataset(str(path) if path.exists() else source)
    except Exception as error:  # `datasets` raises many kinds; to a user they all mean that the source is not there
        raise ValueError(
            f"data: cannot load {source!r} ({type(error).__name__}: {error}). Give a parquet file, an image "
            "folder, a Hub id, or module:function."
        ) from error
    if isinstance(rows, DatasetDict):
        if split not in rows:
            raise ValueError(f"data: {source!r} has no split {split!r}, only {sorted(rows)}.")
        return rows[split]
    return rows


class SkipError(ValueError):
    """Too large a share of the data had to be skipped."""


@dataclass
class SkipReport:
    """Counts what was left out, by cause, and stops a run that leaves out too much.

    Args:
        total: samples in the source.
        max_share: largest share of them that may be skipped, 0..1.
        causes: why a sample was skipped, by row.
        captions: unusable or cut captions by cause and language; their samples may have others and go on.
    """

    total: int
    max_share: float
    causes: dict[int, str] = field(default_factory=dict)
    captions: Counter[str] = field(default_factory=Counter)

    def add(self, row: int, cause: str):
        """Count row number `row`, once, however often it is met.

        Raises:
            SkipError: the limit is passed.
        """
        self.causes.setdefault(row, cause)
        if len(self.causes) > self.max_share * self.total:
            raise SkipError(
                f"data: {len(self.causes)} of {self.total} samples had to be skipped ({self}), more than "
                "max_skip_share="
                f"{self.max_share}. The last was row {row}. Mend the data or raise data.max_skip_share."
            )

    def __str__(self) -> str:
        samples = [f"{cause}: {count}" for cause, count in Counter(self.causes.values()).most_common()]
        captions = [f"{cause}: {count}" for cause, count in self.captions.most_common()]
        return ", ".join(samples or ["none skipped"]) + (f"; captions: {', '.join(captions)}" if captions else "")


class PairDataset(torch.utils.data.Dataset):
    """Decoded pictures with tokenized captions.

    Args:
        rows: the source.
        config: its columns and limits.
        tokenizer: the student's.
        teacher_tokenizer: the teacher's, where it differs.
        picture_size: edge S of the decoded pictures, in pixels.
        max_text_length: longest caption in tokens; longer ones are cut, and counted.

    Raises:
        ValueError: a column is missing.
        SkipError: too many rows have no usable caption.
    """

    def __init__(
        self,
        rows: Dataset,
        config: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        picture_size: int,
        max_text_length: int,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        for name in (config.image_column, *config.caption_columns.values()):
            if name not in rows.column_names:
                raise ValueError(
                    f"data: {config.train!r} has no column {name!r}, only {rows.column_names}. Name the right one "
                    "under data."
                )
        self.config, self.picture_size = config, picture_size
        self.tokenizer, self.teacher_tokenizer = tokenizer, teacher_tokenizer
        self.max_text_length = max_text_length
        self.languages = list(config.caption_columns)
        self.skipped = SkipReport(len(rows), config.max_skip_share)
        self.pictures = rows.select_columns([config.image_column]).cast_column(
            config.image_column, Image(decode=False)
        )
        self.fingerprint = rows._fingerprint  # `datasets` keys its own caches with it
        self.captions = self._check_captions(rows)
        self.caption_ids = {text: number for number, text in enumerate(sorted(self._all_texts()))}
        lengths = [len(ids) for ids in tokenizer(list(self.caption_ids)).input_ids] if self.caption_ids else []
        if num_truncated := sum(length > max_text_length for length in lengths):
            self.skipped.captions[f"cut to {max_text_length} tokens"] = num_truncated
        self.usable_rows = np.array([row for row in range(len(rows)) if row not in self.skipped.causes])
        if not len(self.usable_rows):
            raise ValueError(f"data: {config.train!r} has no usable row ({self.skipped}).")
        # shared, so that every decoding process fills and reads the same memory
        kept = len(rows) if config.in_memory else 0
        self._memory = torch.empty(kept, 3, picture_size, picture_size, dtype=torch.uint8).share_memory_()
        self._in_memory = torch.zeros(kept, dtype=torch.bool).share_memory_()

    def _all_texts(self) -> set[str]:
        return {text for captions in self.captions.values() for texts in captions.values() for text in texts}

    def _check_captions(self, rows: Dataset) -> dict[int, dict[str, list[str]]]:
        """Captions of every row by language; what is unusable is counted, and a row without any is skipped."""
        columns = {language: rows[column] for language, column in self.config.caption_columns.items()}
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

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> Tensor | str:
        """The picture (3, S, S) uint8, or the reason why there is none."""
        if self.config.in_memory and self._in_memory[row]:
            return self._memory[row]
        cell = self.pictures[row][self.config.image_column]
        picture = decode_picture(cell, self.picture_size)
        if self.config.in_memory and isinstance(picture, Tensor):
            self._memory[row] = picture
            self._in_memory[row] = True
        return picture

    def collate(self, samples: list[tuple[int, int, Tensor | str]]) -> dict[str, Any]:
        """Batch (row, view, picture) triples; pictures that did not decode are left to the caller under `skipped`."""
        kept = [sample for sample in samples if isinstance(sample[2], Tensor)]
        batch: dict[str, Any] = {
            "skipped": [(row, picture) for row, _, picture in samples if isinstance(picture, str)]
        }
        if not kept:
            return batch
        batch["pictures"] = torch.stack([picture for _, _, picture in kept])
        batch["picture_ids"] = torch.tensor([row for row, _, _ in kept])
        batch["views"] = torch.tensor([view for _, view, _ in kept])
        texts, owners, languages = [], [], []
        for owner, (row, view, _) in enumerate(kept):
            for language, choices in self.captions[row].items():
                texts.append(choices[view % len(choices)])  # several captions take turns
                owners.append(owner)
                languages.append(self.languages.index(language))
        batch |= self.tokenize(texts)
        batch["owner"], batch["language"] = torch.tensor(owners), torch.tensor(languages)
        batch["caption_ids"] = torch.tensor([self.caption_ids[text] for text in texts])
        return batch

    def tokenize(self, texts: list[str]) -> dict[str, Tensor]:
        """Token ids and masks for the student and, where it reads other tokens, for the teacher."""
        tokens = tokenize(self.tokenizer, texts, self.max_text_length)
        if self.teacher_tokenizer is not None:
            teacher = tokenize(self.teacher_tokenizer, texts, self.max_text_length)
            tokens |= {f"teacher_{name}": value for name, value in teacher.items()}
        return tokens


def usable_captions(cell: Any) -> tuple[list[str], list[str]]:
    """The captions in one cell, stripped, and for each unusable one the cause."""
    if cell is None or cell == []:
        return [], ["no caption"]
    texts, lost = [], []
    for text in cell if isinstance(cell, list) else [cell]:
        if not isinstance(text, str):
            lost.append("no caption" if text is None else "caption is not a string")
        elif text.strip():
            texts.append(text.strip())
        else:
            lost.append("empty caption")
    return texts, lost


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_text_length: int) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, both (T, L) int64, padded on the right to the longest text."""
    tokens = tokenizer(
        texts, padding=True, truncation=True, max_length=max_text_length, padding_side="right", return_tensors="pt"
    )
    return {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}


def decode_picture(cell: dict | None, size: int) -> Tensor | str:
    """Decode, resize the short side to `size` (bicubic), centre-crop.

    Args:
        cell: `{"bytes": ..., "path": ...}` as `datasets` stores undecoded pictures.
        size: edge in pixels.

    Returns:
        (3, size, size) uint8, or the reason why the picture cannot be used.
    """
    if cell is None or (cell.get("bytes") is None and not cell.get("path")):
        return "no picture"
    try:
        image = open_picture(cell)
    except PILImage.DecompressionBombError:
        return "decompression bomb"
    except (OSError, ValueError, SyntaxError):  # what Pillow raises on damaged files
        return "picture does not decode"
    scale = size / min(image.size)
    if scale != 1:
        image = image.resize(
            (max(size, round(image.width * scale)), max(size, round(image.height * scale))),
            PILImage.Resampling.BICUBIC,
        )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def open_picture(cell: dict) -> PILImage.Image:
    """The RGB picture in a cell `{"bytes": ..., "path": ...}`; what Pillow raises on damaged files passes through."""
    with PILImage.open(BytesIO(cell["bytes"]) if cell.get("bytes") is not None else cell["path"]) as image:
        return to_rgb(image)


def to_rgb(image: PILImage.Image) -> PILImage.Image:
    """Any mode to RGB; transparent pictures on white, which is how they are drawn to be seen."""
    if image.mode in ("RGB", "L"):
        return image.convert("RGB")
    image = image.convert("RGBA")
    canvas = PILImage.new("RGBA", image.size, "white")
    return PILImage.alpha_composite(canvas, image).convert("RGB")


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

    def __getitem__(self, key: tuple[int, int]) -> list[tuple[int, int, Tensor | str]]:
        """All tries: the last one is a picture, those before say why they are none."""
        row, view = key
        rows = self.dataset.usable_rows
        first = int(np.searchsorted(rows, row))
        tries: list[tuple[int, int, Tensor | str]] = []
        for position in range(first, first + len(rows)):
            row = int(rows[position % len(rows)])
            tries.append((row, view, self.dataset[row]))
            if isinstance(tries[-1][2], Tensor):
                return tries
        raise ValueError(f"data: no picture of {self.dataset.config.train!r} decodes ({tries[0][2]}). Mend the data.")

    def collate(self, samples: list[list[tuple[int, int, Tensor | str]]]) -> dict[str, Any]:
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
