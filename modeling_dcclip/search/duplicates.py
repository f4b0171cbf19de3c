"""Near duplicates in an index: groups of photographs whose embeddings are almost equal."""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from modeling_dcclip.messages import Message
from modeling_dcclip.search.catalog import File, distinct_files
from modeling_dcclip.search.index import Index
from modeling_dcclip.search.indexing import Progress
from modeling_dcclip.search.query import QueryWarning

BLOCK = 1024  # rows compared at once


class Duplicate(NamedTuple):
    """A photograph of a group: absolute path, cosine similarity to the first of the group, and size in bytes."""

    path: str
    score: float
    bytes: int


def find_duplicates(
    index: Index, threshold: float, progress: Progress | None = None
) -> list[list[Duplicate]]:
    """Find groups of near duplicates. The first photograph of a group is similar to all others in it.

    Of videos, only copies are found.

    The time grows with the square of the number of photographs. The int8 vectors are copied to memory, so that other
    processes can write to the index meanwhile.

    Args:
        index: Index to search.
        threshold: Lowest cosine similarity within a group, above 0, at most 1.
        progress: Function that is called with the number of pairs done and the number to do.

    Returns:
        Groups of at least two files, in the order of indexing. Copies of a file count, links to it do not. Files
        that are gone or have changed are left out.

    Raises:
        ValueError: The threshold is out of range, or a vector is damaged.

    Warns:
        QueryWarning: Files are left out.
    """
    if not 0 < threshold <= 1:
        raise ValueError(
            Message("threshold: got {}, expected a number above 0, at most 1.", threshold)
        )
    files: dict[int, list[File]] = {}
    sound = {
        file.state for file in index.catalog.files() if file.state.is_current()
    }  # slow, so without the lock
    with index.catalog.reading():
        indexed = index.catalog.files()
        current = [file for file in indexed if file.state in sound]
        for file in current:
            files.setdefault(file.row, []).append(file)
        rows = np.array(
            sorted(row for row, (first, *_) in files.items() if first.seconds is None), np.int64
        )
        codes, scales = index.store.read_codes(rows)
    if left_out := len(indexed) - len(current):
        message = Message(
            "left out: files that are gone, or have changed since the last index: {:,}. Run dcclip index",
            left_out,
        )
        warnings.warn(message, QueryWarning, stacklevel=2)
    groups = []
    for positions in _group(codes, scales, threshold, progress):
        scored = {
            file: score for position, score in positions for file in files[int(rows[position])]
        }
        if len(scored) > 1:
            groups.append(
                [
                    Duplicate(file.path, scored[file], file.state.size)
                    for file in distinct_files([*scored])
                ]
            )
    # two videos may start with the same frame, so only copies of them are listed
    videos = [group for group in files.values() if group[0].seconds is not None]
    groups += [
        [Duplicate(file.path, 1.0, file.state.size) for file in distinct_files(group)]
        for group in videos
    ]
    return [group for group in groups if len(group) > 1]


def _group(
    codes: np.ndarray, scales: np.ndarray, threshold: float, progress: Progress | None
) -> Iterator[list[tuple[int, float]]]:
    """Groups of positions with their similarity to the first, which takes all similar later ones of no other group."""
    count = len(codes)
    is_free = np.ones(count, bool)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        groups: dict[int, list[tuple[int, float]]] = {}
        for other in range(start, count, BLOCK):
            left, right = (
                first + np.flatnonzero(is_free[first : first + BLOCK]) for first in (start, other)
            )
            cosines = (codes[left].astype(np.float32) @ codes[right].astype(np.float32).T) * scales[
                left
            ][:, None]
            cosines *= scales[right]
            for row, column in np.argwhere(
                (cosines >= threshold) & (left[:, None] < right)
            ).tolist():
                first, second = int(left[row]), int(right[column])
                if is_free[first] and is_free[second]:
                    groups.setdefault(first, []).append(
                        (second, min(float(cosines[row, column]), 1.0))
                    )
                    is_free[second] = False
        for first in (start + np.flatnonzero(is_free[start:end])).tolist():
            yield [(first, 1.0), *groups.get(first, [])]
        if progress is not None:
            progress(end * (2 * count - end - 1) // 2, count * (count - 1) // 2)
