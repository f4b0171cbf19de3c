"""Near duplicates in an index: groups of photographs whose embeddings are almost equal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .index_dcclip import Index
    from .vectors_dcclip import VectorStore

BLOCK = 2048


@dataclass(frozen=True)
class Duplicate:
    """One photograph of a group.

    Args:
        path: Absolute path.
        score: Cosine similarity to the first photograph of the group.
    """

    path: str
    score: float


def find_duplicates(index: "Index", threshold: float) -> list[list[Duplicate]]:
    """Find groups of near duplicates. The first photograph of a group is similar to all others of it.

    The time grows with the square of the number of photographs.

    Args:
        index: Index to search.
        threshold: Lowest cosine similarity within a group, above 0, at most 1.

    Returns:
        Groups of at least two files, in the order in which they were indexed. Copies of one file count.

    Raises:
        ValueError: The threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: got {threshold}, expected a number above 0, at most 1.")
    with index.catalog.reading():
        files = index.catalog.files_of_rows(range(index.catalog.num_rows))
        rows = list(_group(index.store, len(files), threshold, {row for row in files if not files[row]}))
    groups = [[Duplicate(file.path, score) for row, score in group for file in files[row]] for group in rows]
    return [group for group in groups if len(group) > 1]


def _group(store: "VectorStore", count: int, threshold: float, free: set[int]) -> Iterator[list[tuple[int, float]]]:
    """Groups of rows with their similarity to the first row."""
    grouped = set(free)
    for start, vectors in store.iterate(count, BLOCK):
        neighbours = _neighbours(store, start, vectors, count, threshold)
        for row in range(start, start + len(vectors)):
            if row in grouped:
                continue
            members = [(row, 1.0)]
            members += [pair for pair in neighbours.get(row, []) if pair[0] not in grouped]
            grouped.update(member for member, _ in members)
            yield members


def _neighbours(
    store: "VectorStore", start: int, vectors: np.ndarray, count: int, threshold: float
) -> dict[int, list[tuple[int, float]]]:
    """Later rows that are similar to each row of a block, with their similarity."""
    found: dict[int, list[tuple[int, float]]] = {}
    for first in range(start, count, BLOCK):
        others = store.read(np.arange(first, min(first + BLOCK, count)))
        cosines = vectors @ others.T  # (block, others)
        for left, right in np.argwhere(cosines >= threshold).tolist():
            if first + right > start + left:
                pair = first + right, min(float(cosines[left, right]), 1.0)
                found.setdefault(start + left, []).append(pair)
    return found
