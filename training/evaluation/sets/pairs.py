"""Images with the captions that are right for them, from any source."""

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

from training.data import load_source, require_columns, usable_captions
from training.data.images import encoded_bytes
from training.evaluation.models.image_loading import digest_images
from training.evaluation.sets.locations import Found, read_hub
from training.text.writing_systems import LANGUAGES

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@\S+)?")


@dataclass(frozen=True)
class PairSet:
    """Images with the captions that are right for them.

    An image that stands in several rows, as where a source has a row a caption, is one image with several right
    captions. Equal captions of several images stay several candidates, as the field counts them, and each is right
    for all of these images: nobody could tell them apart.

    Args:
        name: shown in results.
        rows: a row an image, undecoded, in the column `image`.
        captions: by language, in the order of the rows.
        pairs: by language, (P, 2) int64, the right (image, caption) pairs.
        source: where it is from.
        split: of it; None where it has none.
        revision: commit of a data set on the Hub; None elsewhere, where `digest` tells copies apart.
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
        """Of all encoded images in their order: the key for what is stored of them."""
        return digest_images(self.rows)

    def describe(self) -> dict[str, Any]:
        """What was searched, for `results.json`."""
        return {
            "set": self.name,
            "source": self.source,
            "split": self.split,
            "revision": self.revision or self.digest,
            "images": len(self.rows),
            "captions": {language: len(texts) for language, texts in self.captions.items()},
        }


def open_pairs(
    name: str,
    place: str,
    split: str | None = None,
    image_column: str | None = None,
    caption_columns: dict[str, str] | None = None,
) -> PairSet:
    """Load images and captions from wherever they lie.

    Args:
        name: shown in results.
        place: a parquet file or glob, a folder that `datasets` understands, a Hub id with or without `@revision`, or
            `module:function`.
        split: where there are several; default: test.
        image_column: default: `image`.
        caption_columns: language to column, whose cells are a caption or a list of them; default: those of `en` and
            `zh` that are there.

    Raises:
        ValueError: there is nothing there, a column is missing, or a language has no caption at all.
    """
    split, image = split or "test", image_column or "image"
    if not Path(place).expanduser().exists() and HUB_ID.fullmatch(place):
        found = read_hub(place, split)
    else:
        has_splits = not place.endswith(".parquet") and ":" not in place
        found = Found(load_source(place, split), place, split if has_splits else None)
    columns = caption_columns or {language: language for language in LANGUAGES if language in found.rows.column_names}
    if not columns:
        raise ValueError(
            f"retrieval: {name} ({place}) has none of the columns {LANGUAGES}, only {found.rows.column_names}. Name "
            "those with captions: --caption_columns.zh COLUMN."
        )
    rows = require_columns(
        found.rows, [image, *columns.values()], f"{name} ({place})", "Name the right one.", field="retrieval"
    )
    return make_pairs(name, rows, columns, image, found.place, found.split, found.revision)


def make_pairs(
    name: str,
    rows: Dataset,
    caption_columns: dict[str, str],
    image_column: str,
    source: str,
    split: str | None = None,
    revision: str | None = None,
) -> PairSet:
    """Find out which captions belong to which image.

    Args:
        name: shown in results.
        rows: with the columns.
        caption_columns: language to column.
        image_column: of the images.
        source: where the rows are from.
        split: of it; None where it has none.
        revision: commit of a data set on the Hub.

    Raises:
        ValueError: a language has no caption at all.
    """
    images = rows.select_columns([image_column]).cast_column(image_column, Image(decode=False))
    images = images if image_column == "image" else images.rename_column(image_column, "image")
    first_rows, images_of_rows = _distinct_images(images)
    captions, pairs = {}, {}
    for language, column in caption_columns.items():
        found = [
            (image, text)
            for image, cell in zip(images_of_rows, rows[column], strict=True)
            for text in usable_captions(cell)[0]
        ]
        found = list(dict.fromkeys(found))  # a caption given twice for an image is one
        if not found:
            raise ValueError(f"retrieval: {name} has no {language} caption in column {column!r}. Name another one.")
        captions[language] = [text for _, text in found]
        right = _images_by_caption(found)
        pairs[language] = torch.tensor(
            [(image, number) for number, (_, text) in enumerate(found) for image in right[text]]
        )
    return PairSet(name, images.select(first_rows), captions, pairs, source, split, revision)


def _distinct_images(rows: Dataset) -> tuple[list[int], list[int]]:
    """The first row of every image, and for each row the number of its image. Equal files are one image."""
    numbers: dict[bytes, int] = {}
    first_rows, images = [], []
    for row, cell in enumerate(rows):
        digest = hashlib.blake2b(encoded_bytes(cell["image"]), digest_size=16).digest()
        if digest not in numbers:
            numbers[digest] = len(numbers)
            first_rows.append(row)
        images.append(numbers[digest])
    return first_rows, images


def _images_by_caption(found: Sequence[tuple[int, str]]) -> dict[str, list[int]]:
    images: dict[str, list[int]] = {}
    for image, text in found:
        images.setdefault(text, []).append(image)
    return images
