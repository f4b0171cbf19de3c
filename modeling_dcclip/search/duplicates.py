"""Near duplicates in an index: groups of photographs whose embeddings are almost equal."""

from typing import NamedTuple

import numpy as np

from modeling_dcclip.search.catalog import File, distinct_files
from modeling_dcclip.search.index import Index, warn_of_outdated
from modeling_dcclip.search.messages import UserError
from modeling_dcclip.search.signatures import NEAR_COSINE


class Duplicate(NamedTuple):
    """A photograph of a group: absolute path, cosine similarity to the first of the group, and size in bytes."""

    path: str
    score: float
    bytes: int


def find_duplicates(index: Index, threshold: float = NEAR_COSINE) -> list[list[Duplicate]]:
    """Find groups of near duplicates: copies that were resized or compressed again, and not images of the same kind.

    The index has grouped them when it entered them. Of videos, and of images of nearly one color, only files with the
    same content are found.

    Args:
        index: Index to search.
        threshold: Lowest cosine similarity to the first photograph of a group, `NEAR_COSINE` to 1.

    Returns:
        Groups of at least two files, in the order of indexing. Copies of a file count, links to it do not. Files
        that are gone or have changed are left out.

    Raises:
        ValueError: The threshold is out of range, or a vector is damaged.

    Warns:
        QueryWarning: Files are left out.
    """
    if not NEAR_COSINE <= threshold <= 1:
        raise UserError("threshold: got {}, expected {} to 1.", threshold, NEAR_COSINE)
    with index.catalog.reading():
        indexed = index.catalog.files()
        _, originals = index.catalog.content_rows(index.catalog.num_rows)
        groups: dict[int, list[File]] = {}
        for file in sorted(indexed, key=lambda file: file.row):
            groups.setdefault(int(originals[file.row]), []).append(file)
        groups = {original: files for original, files in groups.items() if len(files) > 1}
        rows = sorted({file.row for files in groups.values() for file in files})
        # copied to memory, so that other processes can write to the index meanwhile
        vectors = dict(zip(rows, index.store.read(np.array(rows, np.int64)), strict=True))
    listed = []
    for _, files in sorted(groups.items()):
        found: list[tuple[File, float]] = []
        for file in distinct_files([file for file in files if file.state.is_current()]):
            first = found[0][0] if found else file
            score = min(float(vectors[first.row] @ vectors[file.row]), 1.0)
            if file.row == first.row or score >= threshold:
                found.append((file, 1.0 if file.row == first.row else score))
        if len(found) > 1:
            listed.append([Duplicate(file.path, score, file.state.size) for file, score in found])
    warn_of_outdated(sum(not file.state.is_current() for file in indexed))
    return listed
