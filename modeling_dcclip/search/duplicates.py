"""Near duplicates in an index: groups of photographs whose embeddings are almost equal."""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from modeling_dcclip.messages import Message, UserError
from modeling_dcclip.search.catalog import File, distinct_files
from modeling_dcclip.search.index import Index
from modeling_dcclip.search.indexing import Progress
from modeling_dcclip.search.query import QueryWarning
from modeling_dcclip.search.signatures import shows_the_same

BLOCK = 1024  # rows compared at once


class Duplicate(NamedTuple):
    """A photograph of a group: absolute path, cosine similarity to the first of the group, and size in bytes."""

    path: str
    score: float
    bytes: int


def find_duplicates(
    index: Index, threshold: float, progress: Progress | None = None
) -> list[list[Duplicate]]:
    """Find groups of near duplicates: copies that were resized or compressed again, and not images of the same kind.

    The first photograph of a group is similar to all others in it. Of videos, only copies are found.

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
        raise UserError("threshold: got {}, expected a number above 0, at most 1.", threshold)
    with index.catalog.reading():
        indexed = index.catalog.files()
        rows = np.unique([file.row for file in indexed]).astype(np.int64)
        codes, scales = index.store.read_codes(rows)
        found = index.catalog.signatures(rows)
    current = [file for file in indexed if file.state.is_current()]
    if left_out := len(indexed) - len(current):
        text = "files that are gone, or have changed since the last index: {:,}. Run dcclip index"
        warnings.warn(Message(text, left_out), QueryWarning, stacklevel=2)
    files: dict[int, list[File]] = {}
    for file in current:
        files.setdefault(file.row, []).append(file)
    # two videos may start with the same frame, so only copies of them are listed
    videos = {row for row, (first, *_) in files.items() if first.seconds is not None}
    groups = [dict.fromkeys(files[row], 1.0) for row in videos]
    is_photo = np.isin(rows, [*files.keys() - videos])
    rows = rows[is_photo]
    pixels = [*map(found.get, rows.tolist())]
    for group in _group(codes[is_photo], scales[is_photo], pixels, threshold, progress):
        groups.append({file: score for row, score in group for file in files[int(rows[row])]})
    listed = []
    for scores in groups:
        if len(distinct := distinct_files([*scores])) > 1:
            listed.append(
                [Duplicate(each.path, scores[each], each.state.size) for each in distinct]
            )
    return listed


def _group(
    codes: np.ndarray,
    scales: np.ndarray,
    pixels: Sequence[bytes | None],
    threshold: float,
    progress: Progress | None,
) -> Iterator[list[tuple[int, float]]]:
    """Groups of positions with their similarity to the first, which takes all similar later ones of no other group.

    Images with signatures are similar if these show the same, too.
    """
    count = len(codes)
    is_free = np.ones(count, bool)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        groups = {first: [(first, 1.0)] for first in range(start, end)}
        for other in range(start, count, BLOCK):
            left, right = (
                first + np.flatnonzero(is_free[first : first + BLOCK]) for first in (start, other)
            )
            cosines = codes[left].astype(np.float32) @ codes[right].astype(np.float32).T
            cosines *= scales[left][:, None] * scales[right]
            near = (cosines >= threshold) & (left[:, None] < right)
            for row, column in np.argwhere(near).tolist():
                first, second = int(left[row]), int(right[column])
                if not (is_free[first] and is_free[second]):
                    continue
                one, two = pixels[first], pixels[second]
                if one is None or two is None or shows_the_same(one, two):
                    groups[first].append((second, min(float(cosines[row, column]), 1.0)))
                    is_free[second] = False
        yield from (groups[first] for first in groups if is_free[first])
        if progress is not None:
            progress(end * (2 * count - end - 1) // 2, count * (count - 1) // 2)
