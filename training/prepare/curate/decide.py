"""Pass 2: filters that compare rows with each other, applied to the facts of all rows at once."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from training.prepare.curate.examine import shingle_size
from training.prepare.curate.facts import CaptionFacts, Facts
from training.prepare.curate.near_duplicates import (
    hamming_bands,
    hamming_distance,
    jaccard,
    match_earlier,
    match_images,
    normalise,
    shingles,
)
from training.prepare.curate.options import CurateOptions
from training.utils.rng import keyed_uniform

ReadText = Callable[[str, int, int], str]  # (language, row, index in its cell) -> caption


@dataclass
class Decisions:
    """The facts with all causes filled in, and the matches behind them.

    Args:
        facts: Facts of all N rows, with the final causes.
        excluded_by: (N,) int64, index of the excluded image that matches the row's image; -1 if none does.
        image_like: (N,) int64, earlier row that a near-duplicate image matches; otherwise the row itself.
        caption_like: (T,) int64 per language, earlier caption that a near-duplicate caption matches; otherwise the
            caption itself.
        thresholds: Lowest cosine that was kept, per language; either `min_similarity` or derived from `drop_share`.
    """

    facts: Facts
    excluded_by: np.ndarray
    image_like: np.ndarray
    caption_like: dict[str, np.ndarray]
    thresholds: dict[str, float] = field(default_factory=dict)


def decide(facts: Facts, excluded: np.ndarray, options: CurateOptions, read_text: ReadText) -> Decisions:
    """Fill in the causes of `facts` that depend on other rows.

    Rows without captions are dropped before the search for near-duplicates, so that the row that is kept out of a
    group of near-duplicates has a caption.

    Args:
        facts: Facts of all rows; modified in place.
        excluded: (E,) uint64, hashes of the images that must not be in the curated set.
        options: Thresholds of the filters.
        read_text: Function that returns the text of a caption.

    Raises:
        ValueError: If `max_language_ratio` is set and a language has no caption left.
    """
    decisions = Decisions(
        facts,
        np.full(len(facts.cause), -1),
        np.arange(len(facts.cause)),
        {language: np.arange(len(captions.row)) for language, captions in facts.captions.items()},
    )
    if len(excluded):
        _exclude(decisions, excluded, options)
    _drop_low_similarity(decisions, options)
    if options.max_caption_images is not None:
        _drop_boilerplate(facts, options.max_caption_images)
    facts.drop_without_captions()
    if options.max_image_distance is not None:
        _drop_near_images(decisions, options)
    if options.max_caption_similarity is not None:
        for language in facts.captions:
            _drop_near_captions(decisions, language, options, read_text)
    if options.max_language_ratio is not None:
        _balance(facts, options)
    facts.drop_without_captions()
    return decisions


def _exclude(decisions: Decisions, excluded: np.ndarray, options: CurateOptions):
    facts, rows = decisions.facts, np.flatnonzero(decisions.facts.kept)
    hashes = np.concatenate([excluded, facts.hash[rows]])
    match = match_earlier(
        hashes,
        hamming_bands(hashes, options.max_exclude_distance),
        lambda row, others: hamming_distance(hashes[row], hashes[others]) <= options.max_exclude_distance,
        num_reference=len(excluded),
    )[len(excluded) :]
    found = match < len(excluded)
    decisions.excluded_by[rows[found]] = match[found]
    facts.drop(rows[found], "in an excluded set")


def _drop_low_similarity(decisions: Decisions, options: CurateOptions):
    for language, captions in decisions.facts.captions.items():
        scored = np.flatnonzero(captions.kept)
        if language in options.min_similarity:
            is_low = captions.similarity[scored] < np.float32(options.min_similarity[language])
            captions.drop(scored[is_low], "low similarity")
            decisions.thresholds[language] = options.min_similarity[language]
        elif options.drop_share.get(language) and len(scored):
            ranked = scored[np.argsort(captions.similarity[scored], kind="stable")]
            num = int(options.drop_share[language] * len(scored))
            captions.drop(ranked[:num], "low similarity")
            decisions.thresholds[language] = float(captions.similarity[ranked[num]])


def _drop_boilerplate(facts: Facts, limit: int):
    for captions in facts.captions.values():
        kept = np.flatnonzero(captions.kept)
        # images with equal hashes count as one image
        pairs = np.unique(np.stack([captions.identity[kept], facts.hash[captions.row[kept]]], 1), axis=0)
        identities, counts = np.unique(pairs[:, 0], return_counts=True)
        captions.drop(kept[np.isin(captions.identity[kept], identities[counts > limit])], "boilerplate")


def _drop_near_images(decisions: Decisions, options: CurateOptions):
    facts, rows = decisions.facts, np.flatnonzero(decisions.facts.kept)
    match = match_images(
        facts.hash[rows], facts.colours[rows], options.max_image_distance or 0, options.max_colour_distance
    )
    decisions.image_like[rows] = rows[match]
    facts.drop(rows[match != np.arange(len(rows))], "near-duplicate image")


def _drop_near_captions(decisions: Decisions, language: str, options: CurateOptions, read_text: ReadText):
    captions, size = decisions.facts.captions[language], shingle_size(options, language)
    kept = np.flatnonzero(captions.kept)

    def shingles_of(position: int) -> set[str]:
        index = kept[position]
        return shingles(normalise(read_text(language, int(captions.row[index]), int(captions.number[index]))), size)

    def is_near(position: int, others: np.ndarray) -> np.ndarray:
        own, threshold = shingles_of(position), options.max_caption_similarity or 0
        return np.array([jaccard(own, shingles_of(other)) >= threshold for other in others])

    match = match_earlier(captions.identity[kept], captions.bands[kept], is_near)
    decisions.caption_like[language][kept] = kept[match]
    captions.drop(kept[match != np.arange(len(kept))], "near-duplicate caption")


def _balance(facts: Facts, options: CurateOptions):
    """Cap the larger languages. A keyed hash of row and index selects captions uniformly over the whole source."""
    counts = {language: int(captions.kept.sum()) for language, captions in facts.captions.items()}
    smallest = min(counts, key=counts.__getitem__)
    if not counts[smallest]:
        raise ValueError(
            f"max_language_ratio: no caption in {smallest!r} is left, so the languages cannot be balanced ({counts}). "
            "Set it to null, or relax the filters."
        )
    limit = int((options.max_language_ratio or 1) * counts[smallest])
    for captions in facts.captions.values():
        _drop_beyond(captions, limit, options.seed)


def _drop_beyond(captions: CaptionFacts, limit: int, seed: int):
    kept = np.flatnonzero(captions.kept)
    draws = keyed_uniform(seed, captions.row[kept], captions.number[kept], num=1)[:, 0]
    captions.drop(kept[np.argsort(draws, kind="stable")[limit:]], "above the language ratio")
