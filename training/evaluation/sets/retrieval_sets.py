"""Images with their captions, for retrieval, from any source."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image
from torch import Tensor

from training.data import load_source, require_allowed, require_columns, rules_for, usable_captions
from training.data.images import encoded_bytes
from training.data.sources import check_split
from training.evaluation.models.image_loading import digest_images
from training.evaluation.sets.sources import LoadedRows, read_hub
from training.text.writing_systems import LANGUAGES

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@\S+)?")


@dataclass(frozen=True)
class RetrievalSet:
    """Images and captions, with the pairs that belong together.

    An image that occurs in several rows, as in a source with one row per caption, is one image with several correct
    captions. Equal captions of several images remain several candidates, as is usual in the field, and each is correct
    for all of these images.

    Args:
        name: Name of the set, written to results.
        rows: One row per image, with one column, `image`, of undecoded images.
        captions: Captions by language, in the order of the rows.
        pairs: Correct (image, caption) pairs by language, (P, 2) int64.
        source: Location that the rows were loaded from.
        split: Split of the source; None if it has no splits.
        revision: Commit of a data set on the Hub; None for other sources, whose versions `digest` identifies.
    """

    name: str
    rows: Dataset
    captions: dict[str, list[str]]
    pairs: dict[str, Tensor]
    source: str
    split: str | None = None
    revision: str | None = None

    @cached_property
    def digest(self) -> str:
        """Digest of all encoded images in their order, which cached embeddings are keyed by."""
        return digest_images(self.rows)

    def describe(self) -> dict[str, Any]:
        """Facts about the set for `results.json`."""
        return {
            "set": self.name,
            "source": self.source,
            "split": self.split,
            "revision": self.revision or self.digest,
            "images": len(self.rows),
            "captions": {language: len(texts) for language, texts in self.captions.items()},
        }


def open_retrieval_set(
    name: str,
    location: str,
    split: str | None = None,
    image_column: str | None = None,
    caption_columns: dict[str, str] | None = None,
    allow_urls: bool = False,
    allow_paths: bool = False,
) -> RetrievalSet:
    """Load images and captions.

    Args:
        name: Name of the set, written to results.
        location: Parquet file or glob, folder that `datasets` can load, Hub id with or without `@revision`, or
            `module:function`.
        split: Split, where there are several. Default: test.
        image_column: Name of the column of images. Default: `image`.
        caption_columns: Caption columns by language; a cell is a caption or a list of captions. Default: those of the
            columns `en` and `zh` that exist.
        allow_urls: Whether rows may name images by URL.
        allow_paths: Whether rows may name image files outside the source.

    Raises:
        ValueError: There is nothing at this location, a column is missing, a row names an image that may not be
            opened, or a language has no captions.
    """
    check_split(location, split or "train", "split")
    split, image = split or "test", image_column or "image"
    if not Path(location).expanduser().exists() and HUB_ID.fullmatch(location):
        loaded = read_hub(location, split)
    else:
        has_splits = not location.endswith(".parquet") and ":" not in location
        loaded = LoadedRows(load_source(location, split, field="retrieval"), location, split if has_splits else None)
    column_names = loaded.rows.column_names
    columns = caption_columns or {language: language for language in LANGUAGES if language in column_names}
    if not columns:
        raise ValueError(
            f"retrieval: {name} ({location}) has none of the columns {LANGUAGES}, only {column_names}. Name the "
            "columns of captions: --caption_columns.zh COLUMN."
        )
    rows = require_columns(
        loaded.rows, [image, *columns.values()], f"{name} ({location})", "Name the right one.", field="retrieval"
    )
    rules = rules_for(loaded.location, allow_urls, allow_paths)
    rows = require_allowed(rows, image, rules, f"{name} ({location})", "retrieval")
    return make_retrieval_set(name, rows, columns, image, loaded.location, loaded.split, loaded.revision)


def make_retrieval_set(
    name: str,
    rows: Dataset,
    caption_columns: dict[str, str],
    image_column: str,
    source: str,
    split: str | None = None,
    revision: str | None = None,
) -> RetrievalSet:
    """Find the captions of each image.

    Args:
        name: Name of the set, written to results.
        rows: Rows with images and captions.
        caption_columns: Caption columns by language.
        image_column: Name of the column of images.
        source: Location that the rows were loaded from.
        split: Split of the source; None if it has no splits.
        revision: Commit of a data set on the Hub.

    Raises:
        ValueError: A language has no captions.
    """
    images = rows.select_columns([image_column]).cast_column(image_column, Image(decode=False))
    images = images if image_column == "image" else images.rename_column(image_column, "image")
    first_rows, image_numbers = _distinct_images(images)
    captions, pairs = {}, {}
    for language, column in caption_columns.items():
        found = [
            (image, text)
            for image, cell in zip(image_numbers, rows[column], strict=True)
            for text in usable_captions(cell)[0]
        ]
        found = list(dict.fromkeys(found))  # a caption that an image has twice counts once
        if not found:
            raise ValueError(f"retrieval: {name} has no {language} caption in column {column!r}. Name another one.")
        captions[language] = [text for _, text in found]
        images_by_caption = _images_by_caption(found)
        pairs[language] = torch.tensor(
            [(image, number) for number, (_, text) in enumerate(found) for image in images_by_caption[text]]
        )
    return RetrievalSet(name, images.select(first_rows), captions, pairs, source, split, revision)


def _distinct_images(rows: Dataset) -> tuple[list[int], list[int]]:
    """First row of every distinct image, and the image number of each row. Equal files are one image."""
    numbers: dict[bytes, int] = {}
    first_rows, image_numbers = [], []
    for row, cell in enumerate(rows):
        digest = hashlib.blake2b(encoded_bytes(cell["image"]), digest_size=16).digest()
        if digest not in numbers:
            numbers[digest] = len(numbers)
            first_rows.append(row)
        image_numbers.append(numbers[digest])
    return first_rows, image_numbers


def _images_by_caption(pairs: Sequence[tuple[int, str]]) -> dict[str, list[int]]:
    images: dict[str, list[int]] = {}
    for image, text in pairs:
        images.setdefault(text, []).append(image)
    return images
