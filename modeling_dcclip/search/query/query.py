"""Queries: texts and example images as one embedding, and filters on files."""

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import chain

import numpy as np

from modeling_dcclip.runtime_dcclip import ImageInput, Runtime
from modeling_dcclip.search.messages import Message, UserError
from modeling_dcclip.search.photos.files import search_text
from modeling_dcclip.search.query.dates import (
    PUNCTUATION,
    Dates,
    end_of,
    parse_date,
    recurring,
    split_dates,
)
from modeling_dcclip.search.query.words import without_fillers

WITHOUT = 0.5  # weight of what a photograph should not show: the best precision of the first 10 in both languages
# -word or -"two words"; or 没有人的 before what is searched, in one clause and without the word 目的
LEFT_OUT = re.compile(
    r"""(?<!\S)[-－−](?:["“”]([^"“”]+)["“”]|([^\s"“”]+))"""
    r"|^\s*(?:不要|[没沒]有)((?:(?![没沒]有|不要)[^，,。；;的])+)(?<!目)的(?=\s*[^的\s][^的]*$)"
)
# 有没有 and 要不要 ask whether something is there
NEGATION = re.compile(r"(?<!\S)(?:not|without)\s|(?<!要)不要|(?<=[^\s有])\s*[没沒]有(?!.*的)", re.I)

# best photographs among which those that fit are counted, on the page and in the terminal
LOOKED = 200
# limits of a query
MAX_CHARACTERS = 1000
MAX_TERMS = 16

# a text of at most so many words, or Chinese characters, is searched bare and in a sentence
NAME_WORDS = 2
NAME_CHARACTERS = 4
ARTICLE = re.compile(r"(?:an?|the)\s+", re.I)


class QueryWarning(UserWarning):
    """A query that is answered, perhaps not as expected."""


@dataclass
class Filter:
    """Which files a search may find.

    Args:
        after: First date, as `YYYY`, `YYYY-MM` or `YYYY-MM-DD`, also as `2023/5/1` or `2023年5月`. None does not limit
            it.
        before: Last date, in the same form; the whole day, month or year counts. None does not limit it.
        path: Part of the path, or a pattern of the whole path with `*` and `?`. Upper and lower case are the same.
        every: Days of every year: `weekend`, a month as `MM`, a day as `MM-DD`, or a feast such as `christmas`.

    Raises:
        ValueError: A date is malformed or does not exist, or `after` is later than `before`.
    """

    after: str | None = None
    before: str | None = None
    path: str | None = None
    every: str | None = None

    def __post_init__(self):
        if self.after is not None:
            self.after = parse_date("after", self.after)
        if self.before is not None:
            self.before = parse_date("before", self.before)
        if (self.after or "") > end_of(self.before):
            raise UserError(
                "after: {!r} is later than before: {!r}. Change one of them.",
                self.after,
                self.before,
            )

    def condition(self) -> tuple[str, list[object]]:
        """SQL condition on the columns `date` and `path`, empty without limits, and its values."""
        conditions: dict[str, list[object]] = {}
        if self.after is not None:
            conditions["date >= ?"] = [self.after]
        if self.before is not None:
            conditions["date <= ?"] = [end_of(self.before)]
        if self.every is not None:
            conditions[recurring(self.every)] = []
        if self.path is not None:
            glob = search_text(os.fsencode(self.path)).replace("[", "[[]")
            pattern = glob if {*"*?"} & {*glob} else f"*{glob}*"
            conditions["search_text(path) GLOB ?"] = [pattern]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return where, [*chain.from_iterable(conditions.values())]


def understand(
    query: str, chosen: Filter, has_dates: bool = True
) -> tuple[str, list[str], Filter, Dates | None]:
    """Split what a person typed into its text, what it excludes, and a filter with the dates that it names.

    Args:
        query: What was typed.
        chosen: Filter that was set apart. Its dates take the place of those in the query.
        has_dates: Whether to look for dates in the query.
    """
    _require_short(query)
    dates = None
    if has_dates and chosen.after is None and chosen.before is None and chosen.every is None:
        query, dates = split_dates(query, date.today())
        if dates is not None:
            query = without_fillers(query)  # photos of last summer: all of them, by date
            chosen = replace(chosen, after=dates.after, before=dates.before, every=dates.every)
    text, without = split_query(query)
    return text, without, chosen, dates


def _require_short(query: str):
    if len(query) > MAX_CHARACTERS:
        raise UserError(
            "query: it has {:,} characters; use at most {:,}.", len(query), MAX_CHARACTERS
        )


def split_query(query: str) -> tuple[str, list[str]]:
    """Split a query into its text and what it excludes.

    Examples: `beach -people`, `beach not people`, `beach without people`, `海滩不要人`, `海滩没有人`, `没有人的海滩`.
    """
    without = []

    def leave_out(match: re.Match) -> str:
        without.append(match[1] or match[2] or match[3])
        return ""

    rest = " ".join(LEFT_OUT.sub(leave_out, query).split())
    text, *others = NEGATION.split(rest)
    words = [each.strip(PUNCTUATION) for each in [*without, *others]]
    return text.rstrip(PUNCTUATION), [word for word in words if word]


def embed_query(
    runtime: Runtime,
    text: str,
    without: Sequence[str] = (),
    images: Sequence[ImageInput | np.ndarray] = (),
) -> np.ndarray:
    """Embed a query: the sum of the embeddings of its text and images, less those of what it excludes.

    Args:
        runtime: Model of the index's space.
        text: What is searched for; empty for nothing.
        without: Texts to subtract, with weight 0.5.
        images: Example images, or their embeddings, (D,).

    Returns:
        (D,) float32, of unit length.

    Raises:
        ValueError: The query is empty or too long, or its terms cancel out.

    Warns:
        QueryWarning: A text is truncated, or has characters or words that are not in the model's vocabulary.
    """
    terms = dict.fromkeys(without, -WITHOUT) | ({text: 1.0} if text else {})
    if not 1 <= len(terms) + len(images) <= MAX_TERMS:
        raise UserError(
            "query: it has {} terms, expected 1 to {}. Describe a photograph in Chinese or English, or pass an "
            "example image.",
            len(terms) + len(images),
            MAX_TERMS,
        )
    total: np.ndarray = np.zeros(runtime.dimension, np.float32)
    for image in images:
        total += image if isinstance(image, np.ndarray) else runtime.encode_images([image])[0]
    for term, weight in terms.items():
        _require_short(term)
        _warn(runtime, term)
        mean = runtime.encode_texts(phrasings(term), truncate=True).mean(0)
        total += weight * mean / np.linalg.norm(mean)
    return total / max(np.linalg.norm(total), 1e-6)


def phrasings(text: str) -> list[str]:
    """Texts whose mean embedding stands for a text: a name of a word or two is found better bare and in a sentence."""
    name = ARTICLE.sub("", text, count=1) if ARTICLE.match(text) else text
    if text.isascii():
        is_name = len(name.split()) <= NAME_WORDS
        sentence = f"a photo of a {name}"
    else:
        is_name = len(name) <= NAME_CHARACTERS
        sentence = f"一张{name}的照片"
    return [text, sentence] if is_name else [text]


def _warn(runtime: Runtime, text: str):
    shown = repr(text if len(text) <= 40 else f"{text[:40]}...")
    limit = runtime.max_text_length
    if runtime.count_tokens(text) > limit:
        message = Message("{} is longer than {} tokens and was truncated", shown, limit)
        warnings.warn(message, QueryWarning, stacklevel=3)
    if unknown := runtime.unknown_parts(text):
        message = Message(
            "{} contains {}, which is not in the model's vocabulary", shown, ", ".join(unknown)
        )
        warnings.warn(message, QueryWarning, stacklevel=3)
