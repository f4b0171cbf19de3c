"""Retrieval: which caption belongs to a picture and which picture to a caption, in every language of a source."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, Image
from torch import Tensor

from training.data import require_columns, usable_captions
from training.data.pictures import encoded_bytes
from training.metrics import wilson_interval
from training.metrics.retrieval import right_ranks
from training.results import Row
from training.zero_shot.models import ZeroShotModel

PROTOCOL = "retrieval"
KS = (1, 5, 10)
AT_ONCE = 2**24  # similarities held at a time: 64 MiB


@dataclass(frozen=True)
class PairSet:
    """Pictures with the captions that are right for them.

    A picture that stands in several rows, as where a source has a row a caption, is one picture with several right
    captions. Equal captions of several pictures stay several candidates, as the field counts them, and each is right
    for all of these pictures: nobody could tell them apart.

    Args:
        name: shown in results.
        source: where it came from, shown in results.
        split: of the source.
        pictures: a row a picture.
        image_column: of the pictures.
        captions: by language, in the order of the rows.
        pairs: by language, (P, 2) int64, the right (picture, caption) pairs.
    """

    name: str
    source: str
    split: str
    pictures: Dataset
    image_column: str
    captions: dict[str, list[str]]
    pairs: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        rows: Dataset,
        name: str,
        caption_columns: dict[str, str],
        image_column: str = "image",
        source: str = "",
        split: str = "test",
    ) -> "PairSet":
        """Find out which captions belong to which picture.

        Args:
            rows: with a column of pictures, and one of captions a language; a cell is a caption or a list of them.
            name: shown in results.
            caption_columns: language to column.
            image_column: of the pictures.
            source: where the rows came from, shown in results.
            split: of the source, shown in results.

        Raises:
            ValueError: a column is missing, or a language has no caption at all.
        """
        wanted = [image_column, *caption_columns.values()]
        rows = require_columns(rows, wanted, name, "Name the right ones: --image_column, --caption_columns.")
        first_rows, pictures_of_rows = _distinct_pictures(rows, image_column)
        captions, pairs = {}, {}
        for language, column in caption_columns.items():
            found = [
                (picture, text)
                for picture, cell in zip(pictures_of_rows, rows[column], strict=True)
                for text in usable_captions(cell)[0]
            ]
            found = list(dict.fromkeys(found))  # a caption given twice for a picture is one
            if not found:
                raise ValueError(f"retrieval: {name!r} has no {language} caption in column {column!r}.")
            captions[language] = [text for _, text in found]
            right = _pictures_by_caption(found)
            pairs[language] = torch.tensor(
                [(picture, number) for number, (_, text) in enumerate(found) for picture in right[text]]
            )
        return cls(name, source, split, rows.select(first_rows), image_column, captions, pairs)

    def describe(self) -> dict[str, Any]:
        """What was searched, for `results.json`."""
        captions = {language: len(texts) for language, texts in self.captions.items()}
        return {"source": self.source, "split": self.split, "pictures": len(self.pictures), "captions": captions}


def _distinct_pictures(rows: Dataset, column: str) -> tuple[list[int], list[int]]:
    """The first row of every picture, and for each row the number of its picture. Equal files are one picture."""
    cells = rows.select_columns([column]).cast_column(column, Image(decode=False))
    numbers: dict[bytes, int] = {}
    first_rows, pictures = [], []
    for row, cell in enumerate(cells):
        digest = hashlib.blake2b(encoded_bytes(cell[column]), digest_size=16).digest()
        if digest not in numbers:
            numbers[digest] = len(numbers)
            first_rows.append(row)
        pictures.append(numbers[digest])
    return first_rows, pictures


def _pictures_by_caption(found: Sequence[tuple[int, str]]) -> dict[str, list[int]]:
    pictures: dict[str, list[int]] = {}
    for picture, text in found:
        pictures.setdefault(text, []).append(picture)
    return pictures


def ranks(queries: Tensor, candidates: Tensor, pairs: Tensor, at_once: int = AT_ONCE) -> Tensor:
    """How many wrong candidates stand before each query's best right one, without the whole matrix of similarities.

    Args:
        queries: (Q, D), L2-normalised.
        candidates: (G, D), L2-normalised.
        pairs: (P, 2), the right (query, candidate) pairs.
        at_once: similarities held at a time.

    Returns:
        (A,) int64, A the queries that have a right candidate, in order; the others are not asked.

    Relations: `training.metrics.right_ranks`, in parts.
    """
    pairs = pairs[pairs[:, 0].argsort(stable=True)]
    asked, counts = pairs[:, 0].unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    size = max(1, at_once // len(candidates))
    found = []
    for start in range(0, len(asked), size):
        part = asked[start : start + size]
        own = pairs[ends[start] - counts[start] : ends[start + len(part) - 1]]
        places = torch.searchsorted(part, own[:, 0].contiguous())
        found.append(right_ranks(queries[part] @ candidates.T, torch.stack([places, own[:, 1]], 1)))
    return torch.cat(found)


def measure(
    model: ZeroShotModel,
    pair_set: PairSet,
    text_model: ZeroShotModel | None = None,
    ks: Sequence[int] = KS,
    stage: str | None = None,
    seed: int | None = None,
) -> tuple[list[Row], dict[str, Any]]:
    """Recall at k both ways, in every language of a source.

    Args:
        model: sees the pictures.
        pair_set: what is searched.
        text_model: reads the captions, where that is another one, to see whether the two share a space.
        ks: which recalls; those beyond the number of candidates are left out.
        stage: written to the rows.
        seed: written to the rows.

    Returns:
        The rows, `image_to_text_R@k` and `text_to_image_R@k`; and what `results.json` says of the captions: the
        longest text that was read, in tokens, and how many captions were cut to it, by language.

    Raises:
        ValueError: a picture does not decode, or the two models' embeddings differ in width.
    """
    reader = text_model or model
    name = f"{model.name} pictures, {reader.name} texts" if text_model else model.name
    seen = model.encode_pictures(pair_set.pictures, pair_set.image_column)
    rows, cut = [], {}
    for language, captions in pair_set.captions.items():
        read = reader.encode_texts(captions)
        if seen.shape[1] != read.shape[1]:
            raise ValueError(
                f"text_model: {reader.name!r} embeds in {read.shape[1]} dimensions, {model.name!r} in "
                f"{seen.shape[1]}: they cannot be compared. Name a model of the same space, such as its teacher."
            )
        cut[language] = reader.count_cut(captions)
        pairs = pair_set.pairs[language]
        ways = {
            "image_to_text": (ranks(seen, read, pairs), len(read)),
            "text_to_image": (ranks(read, seen, pairs.flip(1)), len(seen)),
        }
        for way, (found, num_candidates) in ways.items():
            for k in (k for k in ks if k <= num_candidates):
                share = int((found < k).sum()) / len(found)
                interval = wilson_interval(share, len(found))
                rows.append(Row(name, stage, pair_set.name, PROTOCOL, language, f"{way}_R@{k}", share, seed, interval))
    return rows, {"max_text_length": reader.texts.max_length, "captions_cut": cut}
