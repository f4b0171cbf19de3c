"""Queries: texts and example images, with weights, as one embedding, and filters on files."""

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from modeling_dcclip.runtime_dcclip import ImageInput, Runtime
from modeling_dcclip.search.files import search_text

DATE = re.compile(r"(\d{4})(?:年|[-/.年](\d\d?)(?:月|[-/.月](\d\d?)日?)?)?")
PUNCTUATION = "。．.，,、！!？?；;：:~～… "  # at the end of a query
WEIGHTED = re.compile(
    r"(?P<text>.*?)\^(?P<weight>[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)", re.S | re.A | re.I
)
MAX_WEIGHT = 100
WITHOUT = 0.5  # weight of what a photograph should not show: the best precision of the first 10 in both languages
# -word or -"two words"; or 没有人的 before what is searched, in one clause and without the word 目的
LEFT_OUT = re.compile(
    r"""(?<!\S)[-－−](?:["“”]([^"“”]+)["“”]|([^\s"“”]+))"""
    r"|^\s*(?:不要|[没沒]有)((?:(?![没沒]有|不要)[^，,。；;的])+)(?<!目)的(?=\s*[^的\s][^的]*$)"
)
# 有没有 and 要不要 ask whether something is there
NEGATION = re.compile(
    r"(?<!\S)not\s|(?<=\S\s)without\s|(?<!要)不要|(?<=[^\s有])\s*[没沒]有(?!.*的)", re.I
)


class QueryWarning(UserWarning):
    """A query that is answered, perhaps not as expected."""


def split_query(query: str) -> tuple[str, list[str]]:
    """Split a query into its text and what it excludes.

    Examples: `beach -people`, `beach not people`, `beach without people`, `海滩不要人`, `海滩没有人`, `没有人的海滩`.
    """
    without = []

    def leave_out(match: re.Match) -> str:
        without.append(match[1] or match[2] or match[3])
        return ""

    text, *others = NEGATION.split(LEFT_OUT.sub(leave_out, query))
    return text.strip(), [word for each in [*without, *others] if (word := each.strip(PUNCTUATION))]


def parse_term(term: str, default: float = 1.0) -> tuple[str, float]:
    """Split a term such as `日落^0.5` into its text and its weight."""
    match = WEIGHTED.fullmatch(term.strip())
    text, weight = (match["text"], float(match["weight"])) if match else (term, default)
    if not match and "^" in term:
        raise ValueError(
            f"query: the weight of {term!r} is not a number. Write TEXT^0.5, or leave ^ out."
        )
    text = text.strip().rstrip(PUNCTUATION)
    if not text:
        raise ValueError(
            f"query: {term!r} has no text. Describe what the photograph shows, in Chinese or English."
        )
    if abs(weight) > MAX_WEIGHT:
        raise ValueError(
            f"query: {term!r} has the weight {weight:g}, expected {-MAX_WEIGHT} to {MAX_WEIGHT}."
        )
    return text, weight


def embed_query(
    runtime: Runtime,
    texts: Sequence[str],
    without: Sequence[str] = (),
    images: Sequence[ImageInput] = (),
) -> np.ndarray:
    """Embed a query: the weighted sum of the embeddings of its terms.

    Args:
        runtime: Model of the index's space.
        texts: Terms, each a text or `TEXT^WEIGHT`.
        without: Terms to subtract, in the same form, by default with weight 0.5.
        images: Example images, each with weight 1.

    Returns:
        (D,) float32, of unit length.

    Raises:
        ValueError: The query is empty, a term is empty, or the terms cancel out.

    Warns:
        QueryWarning: A text is truncated, or has characters or words that are not in the model's vocabulary.
    """
    terms = [parse_term(term) for term in texts]
    terms += [(text, -weight) for text, weight in (parse_term(term, WITHOUT) for term in without)]
    if not terms and not images:
        raise ValueError(
            "query: got none. Describe a photograph in Chinese or English, or pass an example image."
        )
    for text, _ in terms:
        _warn(runtime, text)
    total = np.zeros(runtime.dimension, np.float32)
    if terms:
        weights = np.array([weight for _, weight in terms], np.float32)
        total += weights @ runtime.encode_texts([text for text, _ in terms], truncate=True)
    if images:
        total += runtime.encode_images(images).sum(0)
    length = np.linalg.norm(total)
    if length < 1e-6:
        raise ValueError("query: its terms cancel out. Change a weight or leave a term out.")
    return total / length


def _warn(runtime: Runtime, text: str):
    shown = repr(text if len(text) <= 40 else f"{text[:40]}...")
    if runtime.count_tokens(text) > (limit := runtime.max_text_length):
        warnings.warn(
            f"{shown} is longer than {limit} tokens and was truncated", QueryWarning, stacklevel=3
        )
    if unknown := runtime.unknown_parts(text):
        message = f"{shown} contains {', '.join(unknown)}, which is not in the model's vocabulary"
        warnings.warn(message, QueryWarning, stacklevel=3)


@dataclass(frozen=True)
class Filter:
    """Which files a search may find.

    Args:
        after: First date, as `YYYY`, `YYYY-MM` or `YYYY-MM-DD`, also as `2023/5/1` or `2023年5月`. None does not limit
            it.
        before: Last date, in the same form; the whole day, month or year counts. None does not limit it.
        path: Part of the path, or a pattern of the whole path with `*` and `?`. Upper and lower case are the same.

    Raises:
        ValueError: A date is malformed or does not exist, or `after` is later than `before`.
    """

    after: str | None = None
    before: str | None = None
    path: str | None = None

    def __post_init__(self):
        for name in ("after", "before"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _parse_date(name, value))
        if self.after is not None and self.before is not None:
            length = min(len(self.after), len(self.before))
            if self.after[:length] > self.before[:length]:
                raise ValueError(
                    f"after: {self.after!r} is later than before: {self.before!r}. Change one of them."
                )

    def condition(self) -> tuple[str, list[object]]:
        """SQL condition on the columns `date` and `path`, empty without limits, and its values."""
        conditions: dict[str, list[object]] = {}
        if self.after is not None:
            conditions["date >= ?"] = [self.after]
        if self.before is not None:
            conditions["substr(date, 1, ?) <= ?"] = [len(self.before), self.before]
        if self.path is not None:
            glob = search_text(os.fsencode(self.path)).replace("[", "[[]")
            conditions["search_text(path) GLOB ?"] = [glob if {*"*?"} & {*glob} else f"*{glob}*"]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return where, [value for values in conditions.values() for value in values]


def _parse_date(name: str, text: str) -> str:
    """`YYYY`, `YYYY-MM` or `YYYY-MM-DD`, from these or the forms with slashes, dots or 年月日."""
    match = DATE.fullmatch("".join(text.split()))
    parts = (
        [f"{int(part):0{max(2, len(part))}}" for part in match.groups() if part] if match else []
    )
    try:
        date(*map(int, [*parts, "1", "1"][:3]))  # refuses February 31
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name}: {text!r} is not a date. Write YYYY, YYYY-MM or YYYY-MM-DD."
        ) from error
    return "-".join(parts)
