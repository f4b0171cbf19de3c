"""Near duplicates in an index: groups of photographs whose embeddings are almost equal."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from modeling_dcclip.search.catalog import File, distinct_files
from modeling_dcclip.search.index import Index, warn_of_outdated
from modeling_dcclip.search.indexing import Progress
from modeling_dcclip.search.messages import UserError
from modeling_dcclip.search.signatures import shows_the_same

BLOCK = 128  # rows compared at once


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

    The time grows with the square of the number of photographs. The vectors are copied to memory, so that other
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
        # two videos may start with the same frame, so only copies of them are listed
        photos = sorted({file.row for file in indexed if file.seconds is None})
        vectors = index.store.read(np.array(photos, np.int64))
        pixels = index.catalog.signatures(photos)
    files: dict[int, list[File]] = {}
    for file in indexed:
        if file.state.is_current():
            files.setdefault(file.row, []).append(file)
    warn_of_outdated(len(indexed) - sum(map(len, files.values())))
    groups = [dict.fromkeys(files[row], 1.0) for row in files.keys() - {*photos}]
    is_current = np.array([row in files for row in photos], bool)
    signatures = [pixels.get(row) for row in photos]
    for group in _group(vectors, is_current, signatures, threshold, progress):
        groups.append({file: score for place, score in group for file in files[photos[place]]})
    listed = []
    for scores in groups:
        distinct = distinct_files([*scores])
        if len(distinct) > 1:
            found = [Duplicate(each.path, scores[each], each.state.size) for each in distinct]
            listed.append(found)
    return listed


def _group(
    vectors: np.ndarray,
    is_free: np.ndarray,
    pixels: Sequence[bytes | None],
    threshold: float,
    progress: Progress | None,
) -> Iterator[list[tuple[int, float]]]:
    """Groups of positions with their similarity to the first, which takes all similar later ones that are free.

    Images with signatures are similar if these show the same, too. What a group takes is marked in `is_free`.
    """
    count = len(vectors)
    for start in range(0, count, BLOCK):
        cosines = vectors[start : start + BLOCK] @ vectors[start:].T  # (BLOCK, count - start)
        for first, row in enumerate(cosines, start):
            if not is_free[first]:
                continue
            group = [(first, 1.0)]
            near = start + np.flatnonzero(row >= threshold)
            for second in near[(near > first) & is_free[near]].tolist():
                one = pixels[first]
                two = pixels[second]
                if one is None or two is None or shows_the_same(one, two):
                    group.append((second, min(float(row[second - start]), 1.0)))
                    is_free[second] = False
            yield group
        if progress is not None:
            end = start + len(cosines)
            progress(end * (2 * count - end - 1) // 2, count * (count - 1) // 2)
