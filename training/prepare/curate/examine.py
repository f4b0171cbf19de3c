"""Pass 1: checks of each row by itself, one shard at a time."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from training.data import usable_captions
from training.data.images import CellRules
from training.prepare.curate.captions import CaptionFilter
from training.prepare.curate.causes import CODES, KEPT
from training.prepare.curate.facts import CaptionFacts, Facts
from training.prepare.curate.images import NUM_COLOURS, examine_image
from training.prepare.curate.languages import LanguageIdentifier, is_traditional
from training.prepare.curate.near_duplicates import CAPTION_BANDS, MinHash, normalise, text_identity
from training.prepare.curate.options import CurateOptions
from training.prepare.curate.similarity import Scorer

IMAGES_PER_CHUNK = 256
SHINGLE_SIZES = {"Han": 2}  # characters, by script
DEFAULT_SHINGLE_SIZE = 3


def shingle_size(options: CurateOptions, language: str) -> int:
    """Length in characters of the n-grams that captions of a language are compared by."""
    return SHINGLE_SIZES.get(options.scripts.get(language, ""), DEFAULT_SHINGLE_SIZE)


def image_hashes(images: Dataset, column: str, options: CurateOptions) -> np.ndarray:
    """Perceptual hashes of all images, without filters on size or contrast.

    Args:
        images: Rows with undecoded images.
        column: Column of the images.
        options: Options of the run; only `workers` and `max_pixels` are used.

    Returns:
        (N,) uint64.

    Raises:
        ValueError: If an image does not decode.
    """
    no_filters = CurateOptions(
        data=options.data, output_dir=options.output_dir, max_pixels=options.max_pixels, min_edge=None,
        max_aspect_ratio=None, min_contrast=None,
    )  # fmt: skip
    with ThreadPoolExecutor(options.workers) as pool:
        found = [
            image
            for start in range(0, len(images), IMAGES_PER_CHUNK)
            for image in pool.map(
                lambda cell: examine_image(cell, no_filters), images[start : start + IMAGES_PER_CHUNK][column]
            )
        ]
    for row, image in enumerate(found):
        if image.cause is not None:
            raise ValueError(f"exclude: row {row} cannot be hashed ({image.cause}). Fix or remove the row.")
    return np.array([image.hash for image in found], np.uint64)


class Examiner:
    """Runs pass 1 on shards of the source.

    Args:
        rows: Rows of the source with undecoded images.
        options: Columns and thresholds.
        scorer: Scorer of image-caption similarity; None skips the scores.
        rules: Which images may be opened.
    """

    def __init__(self, rows: Dataset, options: CurateOptions, scorer: Scorer | None, rules: CellRules):
        self.rows, self.options, self.scorer, self.rules = rows, options, scorer, rules
        identifier = LanguageIdentifier() if options.max_other_language is not None else None
        self.filters = {language: CaptionFilter(options, language, identifier) for language in options.caption_columns}
        threshold = options.max_caption_similarity
        self.hashes = {
            language: None if threshold is None else MinHash(threshold, shingle_size(options, language))
            for language in options.caption_columns
        }

    def __call__(self, rows: range) -> Facts:
        """Facts of a range of rows. Captions of dropped images are not checked."""
        shard = self.rows.select(rows)
        facts = self._examine_images(shard)
        texts: dict[str, list[str]] = {}
        for language, column in self.options.caption_columns.items():
            facts.captions[language], texts[language] = self._examine_captions(shard[column][:], language, facts)
        facts.drop_without_captions()
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
            for start in range(0, num_rows, IMAGES_PER_CHUNK):
                cells = map(self.rules, shard[start : start + IMAGES_PER_CHUNK][column])
                found = pool.map(lambda cell: examine_image(cell, self.options), cells)
                for row, image in enumerate(found, start):
                    cause[row] = CODES[image.cause or KEPT]
                    hashes[row], thumbnails[row] = image.hash, image.colours
        return Facts(cause, hashes, thumbnails, {})

    def _examine_captions(self, cells: list[Any], language: str, facts: Facts) -> tuple[CaptionFacts, list[str]]:
        """Facts and texts of the captions of a column. Unusable captions have an empty text."""
        found: list[tuple[int, int, str, str]] = []
        for row, cell in enumerate(cells):
            texts, unusable = usable_captions(cell)
            found += [(row, number, KEPT, text) for number, text in enumerate(texts)]
            found += [(row, -1, cause, "") for cause in unusable]
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
            image_embeddings = embeddings[torch.from_numpy(np.searchsorted(kept, captions.row[scored]))]
            captions.similarity[scored] = scorer.score(image_embeddings, [texts[language][index] for index in scored])
