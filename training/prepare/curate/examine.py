"""Pass 1: what a row tells by itself, a shard at a time."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image

from training.data import usable_captions
from training.prepare.curate.captions import CaptionFilter
from training.prepare.curate.causes import CODES, KEPT
from training.prepare.curate.facts import CaptionFacts, Facts
from training.prepare.curate.images import NUM_COLOURS, examine_image
from training.prepare.curate.languages import LanguageIdentifier, is_traditional
from training.prepare.curate.near import CAPTION_BANDS, MinHash, normalise, text_identity
from training.prepare.curate.options import CurateOptions
from training.prepare.curate.similarity import Scorer

DECODED_AT_ONCE = 256
SHINGLES = {"Han": 2}  # characters; other scripts 3
OTHER_SHINGLES = 3


def shingle_size(options: CurateOptions, language: str) -> int:
    """Characters that captions of this language are compared by."""
    return SHINGLES.get(options.scripts.get(language, ""), OTHER_SHINGLES)


def image_hashes(images: Dataset, column: str, options: CurateOptions) -> np.ndarray:
    """(N,) uint64 perceptual hashes of all images, whatever their size or contrast.

    Args:
        images: the rows, with undecoded images.
        column: of the images.
        options: how many threads.

    Raises:
        ValueError: an image does not decode.
    """
    anything = CurateOptions(
        data=options.data, output_dir=options.output_dir, max_pixels=options.max_pixels, min_edge=None,
        max_aspect_ratio=None, min_contrast=None,
    )  # fmt: skip
    with ThreadPoolExecutor(options.workers) as pool:
        found = [
            image
            for start in range(0, len(images), DECODED_AT_ONCE)
            for image in pool.map(
                lambda cell: examine_image(cell, anything), images[start : start + DECODED_AT_ONCE][column]
            )
        ]
    for row, image in enumerate(found):
        if image.cause is not None:
            raise ValueError(
                f"exclude: row {row} has {image.cause!r}, so that it cannot be excluded. Mend or remove the row."
            )
    return np.array([image.hash for image in found], np.uint64)


class Examiner:
    """Examines shards of the source.

    Args:
        rows: the source, images undecoded.
        options: columns and thresholds.
        scorer: scores similarity; None leaves it out.
    """

    def __init__(self, rows: Dataset, options: CurateOptions, scorer: Scorer | None):
        self.rows, self.options, self.scorer = rows, options, scorer
        identifier = LanguageIdentifier() if options.max_other_language is not None else None
        self.filters = {language: CaptionFilter(options, language, identifier) for language in options.caption_columns}
        threshold = options.max_caption_similarity
        self.hashes = {
            language: None if threshold is None else MinHash(threshold, shingle_size(options, language))
            for language in options.caption_columns
        }

    def __call__(self, rows: range) -> Facts:
        """The facts of some rows; captions of an image that cannot be used are not examined."""
        shard = self.rows.select(rows)
        facts = self._examine_images(shard)
        texts: dict[str, list[str]] = {}
        for language, column in self.options.caption_columns.items():
            facts.captions[language], texts[language] = self._examine_captions(shard[column][:], language, facts)
        facts.drop_bare()
        if self.scorer is not None:
            self._score(self.scorer, shard, facts, texts)
        for captions in facts.captions.values():
            captions.row += rows.start
        return facts

    def _examine_images(self, shard: Dataset) -> Facts:
        column, num_rows = self.options.image_column, len(shard)
        cause = np.full(num_rows, CODES[KEPT], np.uint8)
        hashes, thumbnails = np.zeros(num_rows, np.uint64), np.zeros((num_rows, NUM_COLOURS), np.uint8)
        with ThreadPoolExecutor(self.options.workers) as pool:
            for start in range(0, num_rows, DECODED_AT_ONCE):
                cells = shard[start : start + DECODED_AT_ONCE][column]
                found = pool.map(lambda cell: examine_image(cell, self.options), cells)
                for row, image in enumerate(found, start):
                    cause[row] = CODES[image.cause or KEPT]
                    hashes[row], thumbnails[row] = image.hash, image.colours
        return Facts(cause, hashes, thumbnails, {})

    def _examine_captions(self, cells: list[Any], language: str, facts: Facts) -> tuple[CaptionFacts, list[str]]:
        """The captions of a column, with their texts; what is no caption has an empty one."""
        found: list[tuple[int, int, str, str]] = []
        for row, cell in enumerate(cells):
            texts, lost = usable_captions(cell)
            found += [(row, number, KEPT, text) for number, text in enumerate(texts)]
            found += [(row, -1, cause, "") for cause in lost]
        size, minhash = len(found), self.hashes[language]
        captions = CaptionFacts(
            row=np.array([row for row, *_ in found], np.int64),
            number=np.array([number for _, number, *_ in found], np.int32),
            cause=np.array([CODES[cause] for *_, cause, _ in found], np.uint8),
            identity=np.zeros(size, np.uint64),
            bands=np.zeros((size, CAPTION_BANDS if minhash else 0), np.uint32),
            similarity=np.full(size, np.nan, np.float32),
            traditional=np.zeros(size, bool),
        )
        for index, (row, _, _, text) in enumerate(found):
            if not text:
                continue
            captions.traditional[index] = language == "zh" and is_traditional(text)
            if facts.cause[row] != CODES[KEPT]:
                captions.cause[index] = facts.cause[row]
            elif cause := self.filters[language](text):
                captions.cause[index] = CODES[cause]
            else:
                normal = normalise(text)
                captions.identity[index] = text_identity(normal)
                if minhash:
                    captions.bands[index] = minhash.bands(normal)
        return captions, [text for *_, text in found]

    def _score(self, scorer: Scorer, shard: Dataset, facts: Facts, texts: dict[str, list[str]]):
        kept = np.flatnonzero(facts.kept)
        images = [shard[int(row)][self.options.image_column] for row in kept]
        embeddings = scorer.encode_images(images)
        for language, captions in facts.captions.items():
            scored = np.flatnonzero(captions.kept)
            beside = embeddings[torch.from_numpy(np.searchsorted(kept, captions.row[scored]))]
            captions.similarity[scored] = scorer.score(beside, [texts[language][index] for index in scored])


def undecoded(rows: Dataset, column: str) -> Dataset:
    """The rows with their images as they are stored."""
    return rows.cast_column(column, Image(decode=False))
