"""Pass 2: what depends on other rows, decided at once from the facts of all of them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from training.prepare.curate.examine import shingle_size
from training.prepare.curate.facts import CaptionFacts, Facts
from training.prepare.curate.near import hamming_bands, hamming_distance, jaccard, match_earlier, normalise, shingles
from training.prepare.curate.options import CurateOptions
from training.utils.rng import keyed_uniform

ReadText = Callable[[str, int, int], str]  # language, row, number in its cell


@dataclass
class Decisions:
    """The facts with all causes filled in, and what was found on the way.

    Args:
        facts: of all rows.
        excluded_by: (N,) int64, the excluded image that a row's is near to, -1 where there is none.
        image_like: (N,) int64, the earlier row that a dropped near-duplicate is like, else the row itself.
        caption_like: (T,) int64 by language, the earlier caption, likewise.
        thresholds: least cosine that stayed by language, whether given or found from a share.
    """

    facts: Facts
    excluded_by: np.ndarray
    image_like: np.ndarray
    caption_like: dict[str, np.ndarray]
    thresholds: dict[str, float] = field(default_factory=dict)


def decide(facts: Facts, excluded: np.ndarray, options: CurateOptions, read_text: ReadText) -> Decisions:
    """Fill in the causes of `facts` that depend on other rows.

    Rows that have lost all captions leave before the next filter looks, so that the first of several near-duplicates
    is one that can be used.

    Args:
        facts: of all rows; changed in place.
        excluded: (E,) uint64 hashes of the images that must not be in the set.
        options: thresholds.
        read_text: gives a caption's text.

    Raises:
        ValueError: the ratio of languages is limited, and one of them has no caption left.
    """
    decisions = Decisions(
        facts,
        np.full(len(facts.cause), -1),
        np.arange(len(facts.cause)),
        {language: np.arange(len(captions.row)) for language, captions in facts.captions.items()},
    )
    if len(excluded):
        _exclude(decisions, excluded, options)
    _drop_unlike(decisions, options)
    if options.max_caption_images is not None:
        _drop_boilerplate(facts, options.max_caption_images)
    facts.drop_bare()
    if options.max_image_distance is not None:
        _drop_near_images(decisions, options)
    if options.max_caption_similarity is not None:
        for language in facts.captions:
            _drop_near_captions(decisions, language, options, read_text)
    if options.max_language_ratio is not None:
        _balance(facts, options)
    facts.drop_bare()
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


def _drop_unlike(decisions: Decisions, options: CurateOptions):
    for language, captions in decisions.facts.captions.items():
        scored = np.flatnonzero(captions.kept)
        if language in options.min_similarity:
            unlike = captions.similarity[scored] < np.float32(options.min_similarity[language])
            captions.drop(scored[unlike], "low similarity")
            decisions.thresholds[language] = options.min_similarity[language]
        elif options.drop_share.get(language) and len(scored):
            ranked = scored[np.argsort(captions.similarity[scored], kind="stable")]
            num = int(options.drop_share[language] * len(scored))
            captions.drop(ranked[:num], "low similarity")
            decisions.thresholds[language] = float(captions.similarity[ranked[num]])


def _drop_boilerplate(facts: Facts, limit: int):
    for captions in facts.captions.values():
        kept = np.flatnonzero(captions.kept)
        # images with the same hash are one image
        pairs = np.unique(np.stack([captions.identity[kept], facts.hash[captions.row[kept]]], 1), axis=0)
        identities, counts = np.unique(pairs[:, 0], return_counts=True)
        captions.drop(kept[np.isin(captions.identity[kept], identities[counts > limit])], "boilerplate")


def _drop_near_images(decisions: Decisions, options: CurateOptions):
    facts, rows = decisions.facts, np.flatnonzero(decisions.facts.kept)
    hashes, colours, distance = facts.hash[rows], facts.colours[rows], options.max_image_distance or 0

    def is_near(row: int, others: np.ndarray) -> np.ndarray:
        difference = np.abs(colours[others].astype(np.int16) - colours[row]).mean(1)
        return (hamming_distance(hashes[row], hashes[others]) <= distance) & (
            difference <= options.max_colour_distance
        )

    looks = np.concatenate([hashes[:, None].view(np.uint8), colours], 1)
    _, identity = np.unique(looks, axis=0, return_inverse=True)
    match = match_earlier(identity, hamming_bands(hashes, distance), is_near)
    decisions.image_like[rows] = rows[match]
    facts.drop(rows[match != np.arange(len(rows))], "near-duplicate image")


def _drop_near_captions(decisions: Decisions, language: str, options: CurateOptions, read_text: ReadText):
    captions, size = decisions.facts.captions[language], shingle_size(options, language)
    kept = np.flatnonzero(captions.kept)

    def parts(number: int) -> set[str]:
        index = kept[number]
        return shingles(normalise(read_text(language, int(captions.row[index]), int(captions.number[index]))), size)

    def is_near(number: int, others: np.ndarray) -> np.ndarray:
        ours = parts(number)
        return np.array([jaccard(ours, parts(other)) >= (options.max_caption_similarity or 0) for other in others])

    match = match_earlier(captions.identity[kept], captions.bands[kept], is_near)
    decisions.caption_like[language][kept] = kept[match]
    captions.drop(kept[match != np.arange(len(kept))], "near-duplicate caption")


def _balance(facts: Facts, options: CurateOptions):
    """A hash of the caption's place decides which stay, so that no part of the source is preferred."""
    counts = {language: int(captions.kept.sum()) for language, captions in facts.captions.items()}
    smallest = min(counts, key=counts.__getitem__)
    if not counts[smallest]:
        raise ValueError(
            f"max_language_ratio: no caption in {smallest!r} is left to balance with ({counts}). Give null, or loosen "
            "the filters."
        )
    limit = int((options.max_language_ratio or 1) * counts[smallest])
    for captions in facts.captions.values():
        _keep(captions, limit, options.seed)


def _keep(captions: CaptionFacts, limit: int, seed: int):
    kept = np.flatnonzero(captions.kept)
    draws = keyed_uniform(seed, captions.row[kept], captions.number[kept], num=1)[:, 0]
    captions.drop(kept[np.argsort(draws, kind="stable")[limit:]], "above the language ratio")
