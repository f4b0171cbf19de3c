"""Near duplicates in an index: groups of photographs whose embeddings are almost equal."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if __package__:
    from .catalog_dcclip import File
    from .files_dcclip import distinct_files, has_other_names
    from .query_dcclip import QueryWarning
else:  # in a model folder
    from catalog_dcclip import File  # type: ignore[no-redef]
    from files_dcclip import distinct_files, has_other_names  # type: ignore[no-redef]
    from query_dcclip import QueryWarning  # type: ignore[no-redef]

if TYPE_CHECKING:
    from .index_dcclip import Index
    from .indexing_dcclip import Progress
    from .vectors_dcclip import VectorStore

BLOCK = 1024  # rows compared at once: a block fits the second-level cache
LEADING = 31  # dimensions that bound a similarity
SAMPLE = 4096  # rows that choose these dimensions
ROUNDING = 1e-4  # above the rounding of a bound


@dataclass(frozen=True)
class Duplicate:
    """One photograph of a group.

    Args:
        path: Absolute path.
        score: Cosine similarity to the first photograph of the group.
    """

    path: str
    score: float


def find_duplicates(index: "Index", threshold: float, progress: "Progress | None" = None) -> list[list[Duplicate]]:
    """Find groups of near duplicates. The first photograph of a group is similar to all others of it.

    The time grows with the square of the number of photographs. A copy of all vectors in memory lets other processes
    write to the index meanwhile.

    Args:
        index: Index to search.
        threshold: Lowest cosine similarity within a group, above 0, at most 1.
        progress: Function that is called with the number of pairs done and the number to do.

    Returns:
        Groups of at least two files, in the order in which they were indexed. Copies of one file count, links to it
        do not. Files that are gone, or that have changed since they were indexed, are left out.

    Raises:
        ValueError: The threshold is out of range.

    Warns:
        QueryWarning: Files are left out, or files of the groups have several hard links.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: got {threshold}, expected a number above 0, at most 1.")
    files: dict[int, list[File]] = {}
    with index.catalog.reading():
        count = index.catalog.num_rows
        indexed = index.catalog.files()
        store = index.store.copy(count)
    current = index.catalog.current(indexed)
    for file in current:
        files.setdefault(file.row, []).append(file)
    if left_out := len(indexed) - len(current):
        cause = "gone or changed since they were indexed. Run dcclip index"
        message = f"left out: {left_out:,} of {len(indexed):,} files, {cause}"
        warnings.warn(message, QueryWarning, stacklevel=2)
    groups = []
    for rows in _group(store, np.array(sorted(files), np.int64), threshold, progress):
        group = [Duplicate(file.path, score) for row, score in rows for file in files[row]]
        if len(group) > 1:
            groups.append([group[position] for position in distinct_files([each.path for each in group])])
    groups = [group for group in groups if len(group) > 1]
    if linked := sum(has_other_names(each.path) for group in groups for each in group):
        message = f"several hard links lead to {linked:,} of these files: deleting one of the links frees no space"
        warnings.warn(message, QueryWarning, stacklevel=2)
    return groups


def _group(
    store: "VectorStore", rows: np.ndarray, threshold: float, progress: "Progress | None"
) -> Iterator[list[tuple[int, float]]]:
    """Groups of rows with their similarity to the first row, which takes all similar later rows of no other group."""
    bounds, count = _bounds(store, rows), len(rows)
    is_free = np.ones(count, bool)
    for start in range(0, count, BLOCK):
        groups: dict[int, list[tuple[int, float]]] = {}
        for other in range(start, count, BLOCK):
            left, right = (first + np.flatnonzero(is_free[first : first + BLOCK]) for first in (start, other))
            for first, second, cosine in _similar(store, rows, bounds, left, right, threshold):
                if is_free[first] and is_free[second]:
                    groups.setdefault(first, []).append((int(rows[second]), min(cosine, 1.0)))
                    is_free[second] = False
        end = min(start + BLOCK, count)
        for first in (start + np.flatnonzero(is_free[start:end])).tolist():
            yield [(int(rows[first]), 1.0), *groups.get(first, [])]
        if progress is not None:
            progress(end * (2 * count - end - 1) // 2, count * (count - 1) // 2)


def _bounds(store: "VectorStore", rows: np.ndarray) -> np.ndarray:
    """Short vectors whose products are no less than those of the vectors, (N, K) float32.

    They are the coordinates in the directions of the most variance, and the length of the rest: the product of two
    rests is at most that of their lengths.
    """
    sample = store.read(rows[:: len(rows) // SAMPLE + 1])
    directions = np.linalg.eigh(sample.T @ sample)[1][:, -LEADING:]  # (D, K - 1), orthonormal
    bounds = np.empty((len(rows), directions.shape[1] + 1), np.float32)
    for start in range(0, len(rows), BLOCK):
        vectors = store.read(rows[start : start + BLOCK])
        coordinates = vectors @ directions
        rests = np.linalg.norm(vectors - coordinates @ directions.T, axis=1)
        bounds[start : start + BLOCK] = np.column_stack([coordinates, rests])
    return bounds


def _similar(
    store: "VectorStore", rows: np.ndarray, bounds: np.ndarray, left: np.ndarray, right: np.ndarray, threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Pairs of a position on the left and a later one on the right, in order, with their similarity."""
    candidates = bounds[left] @ bounds[right].T >= threshold - ROUNDING
    lefts, rights = np.divmod(np.flatnonzero(candidates), len(right))  # much faster than argwhere
    is_later = left[lefts] < right[rights]
    left, right = np.unique(left[lefts[is_later]]), np.unique(right[rights[is_later]])
    if len(left):
        cosines = store.read(rows[left]) @ store.read(rows[right]).T
        for first, second in np.argwhere((cosines >= threshold) & (left[:, None] < right)).tolist():
            yield int(left[first]), int(right[second]), float(cosines[first, second])
