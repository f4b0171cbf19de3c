"""Near duplicates in an index: groups of photographs whose embeddings are almost equal."""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if __package__:
    from .catalog_dcclip import File
    from .files_dcclip import distinct_files, with_separator
    from .query_dcclip import QueryWarning
else:  # in a model folder
    from catalog_dcclip import File  # type: ignore[no-redef]
    from files_dcclip import distinct_files, with_separator  # type: ignore[no-redef]
    from query_dcclip import QueryWarning  # type: ignore[no-redef]

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

    The time grows with the square of the number of photographs. A copy of all vectors in memory lets other processes
    write to the index meanwhile.

    Args:
        index: Index to search.
        threshold: Lowest cosine similarity within a group, above 0, at most 1.

    Returns:
        Groups of at least two files, in the order in which they were indexed. Copies of one file count, links to it
        do not. Files that are gone, or that have changed since they were indexed, are left out.

    Raises:
        ValueError: The threshold is out of range.

    Warns:
        QueryWarning: Files are left out.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: got {threshold}, expected a number above 0, at most 1.")
    files: dict[int, list[File]] = {}
    with index.catalog.reading():
        count = index.catalog.num_rows
        folders = tuple(with_separator(os.fsencode(folder)) for folder in index.catalog.folders())
        indexed = index.catalog.files()
        store = index.store.copy(count)
    for file in indexed:  # a collection of training/embed.py has names instead of files, and no folders
        if not file.state.path.startswith(folders) or file.state.is_current():
            files.setdefault(file.row, []).append(file)
    if left_out := len(indexed) - sum(map(len, files.values())):
        cause = "gone or changed since they were indexed. Run dcclip index"
        message = f"left out: {left_out:,} of {len(indexed):,} files, {cause}"
        warnings.warn(message, QueryWarning, stacklevel=2)
    free = set(range(count)) - set(files)
    groups = []
    for rows in _group(store, count, threshold, free):
        group = [Duplicate(file.path, score) for row, score in rows for file in files[row]]
        if len(group) > 1:
            groups.append([group[position] for position in distinct_files([each.path for each in group])])
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
