"""Filters of the curation: checks of one caption, stored facts of all rows, and filters that compare rows."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from training.data.captions import EMPTY, NO_CAPTION, NO_LETTERS, NOT_UNICODE
from training.data.images import PATH_REFUSED, URL_REFUSED
from training.prepare.curation_options import CurateOptions
from training.prepare.duplicates import (
    BLANK,
    BOMB,
    EXTREME_ASPECT,
    MAX_COLOUR_DISTANCE,
    NO_IMAGE,
    TOO_SMALL,
    UNDECODABLE,
    jaccard,
    match_earlier,
    match_images,
    normalise,
    shingles,
)
from training.text.writing_systems import SCRIPTS_OF, script_of
from training.utils.files import atomic_write
from training.utils.rng import keyed_uniform

KEPT = "kept"
# reasons for dropping a row or a caption, in the order of the checks: the first one that applies is recorded
CAUSES = (
    KEPT, NO_IMAGE, URL_REFUSED, PATH_REFUSED, BOMB, UNDECODABLE, TOO_SMALL, EXTREME_ASPECT, BLANK,
    NO_CAPTION, EMPTY, "caption is not a string", NO_LETTERS, NOT_UNICODE, "too few characters", "too many characters",
    "e-mail address", "file name", "web address", "symbols", "digits", "repeated characters", "kana or Hangul",
    "wrong script", "wrong language", "too many words", "repeated words", "in an excluded set", "low similarity",
    "boilerplate", "near-duplicate image", "near-duplicate caption", "above the language ratio", "no caption left",
)  # fmt: skip
CODES = {cause: code for code, cause in enumerate(CAUSES)}  # uint8 in the state files

# thresholds of the caption checks; shares are of characters or words, 0..1
MAX_CHARACTERS, MAX_WORDS = 1000, 128
MAX_SYMBOLS, MAX_DIGITS, MAX_REPEATED_WORDS, MAX_RUN = 0.3, 0.3, 0.5, 5
MIN_SCRIPT_SHARE, MAX_KANA_SHARE = 0.5, 0.1
# no domain that is also a word: "like it.Me too" is not a web address
TOP_LEVEL = "com|net|org|info|edu|gov|cn|io|uk|jp|tw|hk"
URL = re.compile(
    rf"(?:https?|ftp)://|\bwww\.|(?<![\w@.-])[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:{TOP_LEVEL})(?![\w.])", re.I | re.A
)
EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")
SUFFIXES = "jpe?g|png|gif|webp|bmp|tiff?|heic|avif|svg|psd|pdf|docx?|pptx?|zip|mp4|mov|avi"
FILE_NAME = re.compile(
    rf"[^\s.]\.(?:{SUFFIXES})(?!\w)|^(?:img|dsc|dscn|dscf|pxl|gopr|screenshot)[\s_-]*\d[\d_-]*$", re.I | re.A
)
UNSPACED = frozenset({"Han", "Hiragana", "Katakana"})  # each character counts as a word
KANA_OR_HANGUL = frozenset({"Hiragana", "Katakana", "Hangul"})
APOSTROPHES = str.maketrans("", "", "'’")
# labels of py3langid for languages that share their written form with one of ours
SAME_AS = {"zh": frozenset({"zh", "yue", "wuu", "lzh", "gan", "hak", "nan"})}

ReadText = Callable[[str, int, int], str]  # (language, row, index in its cell) -> caption


def words_of(text: str) -> list[tuple[str, str]]:
    """The words of a text, each with its script, in order.

    Each ideograph or kana is one word. Digits and punctuation are not part of any word.
    """
    words: list[tuple[str, str]] = []
    for script, letters in groupby(unicodedata.normalize("NFKC", text).translate(APOSTROPHES), script_of):
        if script in UNSPACED:
            words += [(letter, script) for letter in letters]
        elif script is not None:
            words.append(("".join(letters), script))
    return words


class CaptionFilter:
    """Checks captions of one language.

    Args:
        language: Language of the captions (ISO 639-1 code).
        max_other_language: Largest probability (0..1) that py3langid may assign to a different language; None does not
            identify the language.

    Raises:
        ValueError: py3langid is needed and not installed.
    """

    def __init__(self, language: str, max_other_language: float | None = None):
        self.language, self.max_other_language = language, max_other_language
        self.scripts = SCRIPTS_OF.get(language)
        if max_other_language is not None:
            try:
                from py3langid import langid
            except ImportError as error:
                raise ValueError(
                    f'max_other_language: py3langid is not installed ({error}). Run `pip install -e ".[train]"`, or '
                    "set max_other_language to null."
                ) from error
            self._identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)

    def __call__(self, text: str) -> str | None:
        """The first cause to drop a caption, one of `CAUSES`, or None."""
        return next((cause for cause, applies in self._checks(text) if applies), None)

    def _checks(self, text: str) -> Iterator[tuple[str, bool]]:
        """Causes with whether they apply, cheap checks first. The caller stops at the first that applies."""
        # one ideograph can be a whole caption; one letter cannot
        yield "too few characters", len(text) < (1 if self.scripts and UNSPACED & self.scripts else 2)
        yield "too many characters", len(text) > MAX_CHARACTERS
        yield "e-mail address", EMAIL.search(text) is not None
        yield "file name", FILE_NAME.search(text) is not None
        yield "web address", URL.search(text) is not None
        # the punctuation mark that ends a sentence does not count, however short the sentence
        end = -1 if len(text) > 1 and unicodedata.category(text[-1]).startswith("P") else None
        kinds = [unicodedata.category(character)[0] for character in text[:end] if not character.isspace()]
        yield "symbols", kinds.count("P") + kinds.count("S") > MAX_SYMBOLS * len(kinds)
        yield "digits", kinds.count("N") > MAX_DIGITS * len(kinds)
        yield "repeated characters", max(sum(1 for _ in run) for _, run in groupby(text)) > MAX_RUN
        words = words_of(text)
        if self.scripts is not None:
            shares = Counter(script for _, script in words)
            foreign = KANA_OR_HANGUL - self.scripts if "Han" in self.scripts else frozenset()
            yield "kana or Hangul", sum(shares[script] for script in foreign) > MAX_KANA_SHARE * len(words)
            own = sum(shares[script] for script in self.scripts)
            yield "wrong script", not words or own < MIN_SCRIPT_SHARE * len(words)
        if self.max_other_language is not None:
            found, probability = self._identifier.classify(text)
            is_other = found not in SAME_AS.get(self.language, {self.language})
            yield "wrong language", is_other and probability > self.max_other_language
        yield "too many words", len(words) > MAX_WORDS
        unique = {word.casefold() for word, _ in words}
        yield "repeated words", len(words) - len(unique) > MAX_REPEATED_WORDS * len(words)


def shingle_size(language: str) -> int:
    """Length in characters of the n-grams that captions of a language are compared by."""
    return 2 if "Han" in SCRIPTS_OF.get(language, ()) else 3


@dataclass
class Facts:
    """N rows with their T captions in all languages.

    Args:
        cause: (N,) uint8, code of the cause a row is dropped for.
        hash: (N,) uint64, perceptual hash of the image.
        colours: (N, 48) uint8, RGB thumbnail of the image.
        row: (T,) int64, row of the source.
        language: (T,) uint8, position of the language in the caption columns.
        number: (T,) int32, index among the usable captions of its cell; -1 for an unusable caption.
        text_cause: (T,) uint8, code of the cause a caption is dropped for.
        identity: (T,) uint64, equal for captions that differ only in case and punctuation.
        bands: (T, 16) uint32, MinHash bands.
        similarity: (T,) float32, cosine with its image; NaN if it was not scored.
    """

    cause: np.ndarray
    hash: np.ndarray
    colours: np.ndarray
    row: np.ndarray
    language: np.ndarray
    number: np.ndarray
    text_cause: np.ndarray
    identity: np.ndarray
    bands: np.ndarray
    similarity: np.ndarray

    @property
    def kept_rows(self) -> np.ndarray:
        """Indices of the rows that are kept."""
        return np.flatnonzero(self.cause == CODES[KEPT])

    def kept_captions(self, language: int | None = None) -> np.ndarray:
        """Indices of the captions that are kept, of one language or of all."""
        kept = self.text_cause == CODES[KEPT]
        return np.flatnonzero(kept if language is None else kept & (self.language == language))

    def drop_captions(self, captions: np.ndarray, cause: str):
        """Drop captions by their indices. A caption that is already dropped keeps its first cause."""
        kept = captions[self.text_cause[captions] == CODES[KEPT]]
        self.text_cause[kept] = CODES[cause]

    def drop_rows(self, rows: np.ndarray, cause: str):
        """Drop rows by their indices, and the captions they still have. A dropped row keeps its first cause."""
        rows = rows[self.cause[rows] == CODES[KEPT]]
        self.cause[rows] = CODES[cause]
        dropped = np.zeros(len(self.cause), bool)
        dropped[rows] = True
        self.drop_captions(np.flatnonzero(dropped[self.row - self.first_row]), cause)

    def drop_without_captions(self):
        """Drop rows that have no caption left."""
        has_caption = np.zeros(len(self.cause), bool)
        has_caption[self.row[self.kept_captions()] - self.first_row] = True
        self.drop_rows(np.flatnonzero(~has_caption), "no caption left")

    first_row: int = 0  # of a shard

    def save(self, path: Path):
        """Write a safetensors file atomically, with a digest of its content."""
        arrays = self._arrays()
        with atomic_write(path) as scratch:
            save_file(arrays, scratch, {"digest": _digest(arrays)})

    def _arrays(self) -> dict[str, np.ndarray]:
        return {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}

    @classmethod
    def load(cls, path: Path) -> "Facts":
        """Read a file that `save` wrote.

        Raises:
            ValueError: The file is damaged.
        """
        try:
            arrays: dict[str, Any] = load_file(path)
            with safe_open(path, "np") as file:
                if (file.metadata() or {}).get("digest") != _digest(arrays):
                    raise ValueError("checksum mismatch")
            return cls(**arrays)
        except (OSError, SafetensorError, ValueError, TypeError) as error:
            raise ValueError(
                f"output_dir: {path} is damaged ({error}). Delete this file and run the same command again."
            ) from error

    @classmethod
    def join(cls, parts: Sequence["Facts"]) -> "Facts":
        """Concatenate shards in order."""
        joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS}
        return cls(**joined)


ARRAYS = tuple(item.name for item in fields(Facts) if item.name != "first_row")


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    return digest.hexdigest()


@dataclass
class Decisions:
    """The facts with all causes filled in, and the matches behind them.

    Args:
        facts: Facts of all N rows and T captions, with the final causes.
        excluded_by: (N,) int64, index of the excluded image that matches the row's image; -1 if none does.
        image_like: (N,) int64, earlier row that a near-duplicate image matches; otherwise the row itself.
        caption_like: (T,) int64, earlier caption that a near-duplicate caption matches; otherwise the caption itself.
        thresholds: Lowest cosine that was kept, by language.
    """

    facts: Facts
    excluded_by: np.ndarray
    image_like: np.ndarray
    caption_like: np.ndarray
    thresholds: dict[str, float] = field(default_factory=dict)


def decide(facts: Facts, excluded: np.ndarray, options: CurateOptions, read_text: ReadText) -> Decisions:
    """Fill in the causes of `facts` that depend on other rows.

    Rows without captions are dropped before the search for near-duplicates, so that the row that is kept out of a
    group of near-duplicates has a caption.

    Args:
        facts: Facts of all rows; modified in place.
        excluded: (E,) uint64, hashes of the images that must not be in the curated set.
        options: Options of the run.
        read_text: Function that returns the text of a caption.

    Raises:
        ValueError: If `max_language_ratio` is set and a language has no caption left.
    """
    num_rows, num_captions = len(facts.cause), len(facts.row)
    decisions = Decisions(facts, np.full(num_rows, -1), np.arange(num_rows), np.arange(num_captions))
    languages = list(options.caption_columns)
    if len(excluded):
        rows = facts.kept_rows
        hashes = np.concatenate([excluded, facts.hash[rows]])
        same = np.zeros((len(hashes), 48), np.uint8)  # copies in other colours are excluded, too
        match = match_images(hashes, same, options.max_image_distance, MAX_COLOUR_DISTANCE, len(excluded))
        match = match[len(excluded) :]
        found = match < len(excluded)
        decisions.excluded_by[rows[found]] = match[found]
        facts.drop_rows(rows[found], "in an excluded set")
    for number, language in enumerate(languages):
        _drop_low_similarity(decisions, number, language, options)
    for number in range(len(languages)):
        _drop_boilerplate(facts, number, options.max_caption_images)
    facts.drop_without_captions()
    rows = facts.kept_rows
    match = match_images(facts.hash[rows], facts.colours[rows], options.max_image_distance, MAX_COLOUR_DISTANCE)
    decisions.image_like[rows] = rows[match]
    facts.drop_rows(rows[match != np.arange(len(rows))], "near-duplicate image")
    for number, language in enumerate(languages):
        _drop_near_captions(decisions, number, language, options.max_caption_similarity, read_text)
    if options.max_language_ratio is not None:
        _balance(facts, languages, options.max_language_ratio, options.seed)
    facts.drop_without_captions()
    return decisions


def _drop_low_similarity(decisions: Decisions, number: int, language: str, options: CurateOptions):
    facts = decisions.facts
    scored = facts.kept_captions(number)
    if language in options.min_similarity:
        threshold = options.min_similarity[language]
        decisions.thresholds[language] = threshold
        facts.drop_captions(scored[facts.similarity[scored] < np.float32(threshold)], "low similarity")
    elif options.drop_share.get(language) and len(scored):
        ranked = scored[np.argsort(facts.similarity[scored], kind="stable")]
        num_dropped = int(options.drop_share[language] * len(scored))
        facts.drop_captions(ranked[:num_dropped], "low similarity")
        decisions.thresholds[language] = float(facts.similarity[ranked[num_dropped]])


def _drop_boilerplate(facts: Facts, number: int, limit: int | None):
    if limit is None:
        return
    kept = facts.kept_captions(number)
    # images with equal hashes count as one image
    pairs = np.unique(np.stack([facts.identity[kept], facts.hash[facts.row[kept]]], 1), axis=0)
    identities, counts = np.unique(pairs[:, 0], return_counts=True)
    facts.drop_captions(kept[np.isin(facts.identity[kept], identities[counts > limit])], "boilerplate")


def _drop_near_captions(
    decisions: Decisions, number: int, language: str, threshold: float | None, read_text: ReadText
):
    if threshold is None:
        return
    facts, size = decisions.facts, shingle_size(language)
    kept = facts.kept_captions(number)

    def shingles_of(position: int) -> set[str]:
        index = kept[position]
        return shingles(normalise(read_text(language, int(facts.row[index]), int(facts.number[index]))), size)

    def is_near(position: int, others: np.ndarray) -> np.ndarray:
        equal = facts.identity[kept[others]] == facts.identity[kept[position]]
        if equal.any():  # equal captions are not read
            return equal
        own = shingles_of(position)
        return np.array([jaccard(own, shingles_of(other)) >= threshold for other in others])

    match = match_earlier(facts.bands[kept], is_near)
    decisions.caption_like[kept] = kept[match]
    facts.drop_captions(kept[match != np.arange(len(kept))], "near-duplicate caption")


def _balance(facts: Facts, languages: Sequence[str], ratio: float, seed: int):
    """Cap the larger languages. A keyed hash of row and index selects captions uniformly over the whole source."""
    counts = {language: len(facts.kept_captions(number)) for number, language in enumerate(languages)}
    smallest = min(counts, key=counts.__getitem__)
    if not counts[smallest]:
        raise ValueError(
            f"max_language_ratio: no caption in {smallest!r} is left, so the languages cannot be balanced ({counts}). "
            "Set it to null, or relax the filters."
        )
    for number in range(len(languages)):
        kept = facts.kept_captions(number)
        draws = keyed_uniform(seed, facts.row[kept], facts.number[kept], num=1)[:, 0]
        beyond = np.argsort(draws, kind="stable")[int(ratio * counts[smallest]) :]
        facts.drop_captions(kept[beyond], "above the language ratio")
