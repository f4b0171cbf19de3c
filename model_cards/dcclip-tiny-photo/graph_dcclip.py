"""Search in a graph of the vectors by USearch, for indexes of more than a million images.

The graph is an HNSW (Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical
Navigable Small World graphs", arXiv 1603.09320). It only chooses candidates: their scores come from the stored
vectors, as in a scan. Rows that were written after the graph was built are scanned, until they are many and it is
built again.

A graph is one file beside the vectors, `graph-N.usearch`, that never changes. The catalog names the file in use.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if __package__:
    from .vectors_dcclip import largest
else:  # in a model folder
    from vectors_dcclip import largest  # type: ignore[no-redef]

if TYPE_CHECKING:
    from .catalog_dcclip import Catalog
    from .vectors_dcclip import VectorStore

ENGINES = ("scan", "usearch")
CONNECTIVITY, EXPANSION_ADD = 16, 128  # links of a vector, and candidates for them
CANDIDATES, MIN_CANDIDATES = 8, 200  # from the graph: this many for each result, and at least the minimum
# a search that would need more candidates of the graph is a scan, and a graph that lacks more rows is built again
MAX_CANDIDATES, MAX_OUTSIDE, MAX_SHARE = 5000, 20_000, 0.1
BUILD_ROWS = 16_384  # rows that are added to the graph at once


class GraphError(ValueError):
    """The file of a graph is missing or damaged."""


def has_usearch() -> bool:
    """Whether the package of the extra `usearch` is installed."""
    try:
        import usearch.index  # noqa: F401
    except ImportError:
        return False
    return True


def check_engine(engine: str):
    """Refuse an engine that cannot be used here.

    Args:
        engine: Name of the engine.

    Raises:
        ValueError: There is no such engine, or its package is missing.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: there is no {engine!r}. Expected: {', '.join(ENGINES)}.")
    if engine == "usearch" and not has_usearch():
        raise ValueError(
            "engine: usearch is not installed. Run pip install usearch, or go back to dcclip index --engine scan."
        )


class Graph:
    """A graph that was built before.

    Args:
        path: File of the graph; it is mapped into memory.
        store: Vectors of the index.

    Raises:
        GraphError: The file is missing, damaged, or has another number of dimensions.
        ImportError: USearch is not installed.
    """

    def __init__(self, path: Path, store: "VectorStore"):
        from usearch.index import Index as USearch

        self.path, self.store = path, store
        try:
            self._graph: Any = USearch.restore(path, view=True)
            found = self._graph.ndim if self._graph is not None else "no file"
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            found = str(error)
        if found != store.dimension:
            raise GraphError(
                f"index: the graph {str(path)!r} is missing or damaged ({found}). Build it again: dcclip index "
                "--engine usearch."
            )

    def search(
        self, query: np.ndarray, count: int, top: int, allowed: np.ndarray | None, outside: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Find the rows with the highest cosine similarity to a query, in all likelihood.

        Args:
            query: Vector of unit length, (D,) float32.
            count: Number of rows of the index.
            top: Maximum number of results, at least 1.
            allowed: Whether each row may be found, (count,) bool. None allows all rows.
            outside: Rows that the graph lacks or has an old vector of, (M,) int64.

        Returns:
            Row numbers, (K,) int64, and cosine similarities, (K,) float32; highest first.
        """
        share = 1.0 if allowed is None else np.count_nonzero(allowed) / count if count else 0.0
        wanted = max(CANDIDATES * top, MIN_CANDIDATES)
        if wanted > share * min(MAX_SHARE * count, MAX_CANDIDATES):  # a filter leaves few rows, or there are few
            return self.store.search(query, count, top, allowed)
        wanted = round(wanted / share)
        self._graph.expansion_search = wanted
        found = self._graph.search(_codes(query[None])[0], wanted, threads=1).keys.astype(np.int64)
        candidates = np.union1d(found, outside)
        if allowed is not None:
            candidates = candidates[allowed[candidates]]
        if len(candidates) < top:
            return self.store.search(query, count, top, allowed)
        scores = np.concatenate([self.store.read(part) @ query for part in _parts(candidates)])
        best = largest(scores, top)
        return candidates[best], scores[best]


def update_graph(catalog: "Catalog", store: "VectorStore", progress: Callable[[int, int], None] | None = None) -> bool:
    """Build the graph if there is none, or too many rows are outside it. Call it within the lock of the index.

    Args:
        catalog: Catalog of the index.
        store: Vectors of the index.
        progress: Function that is called with the number of vectors done and the number to do.

    Returns:
        Whether the graph was built.

    Raises:
        ImportError: USearch is not installed.
        OSError: The disk is full or cannot be written. The previous graph stays in use.
    """
    path = graph_path(store, catalog.graph)
    if catalog.graph and path.exists():
        limit = max(MAX_OUTSIDE, round(MAX_SHARE * catalog.num_rows))
        if len(catalog.rows_outside_graph()) <= limit:
            remove_stale_graphs(catalog, store)
            return False
    if catalog.num_rows == len(catalog.free_rows()):
        return False  # there is nothing to find
    number = catalog.next_graph
    _build(catalog, store, graph_path(store, number), progress)
    with catalog.writing():
        catalog.set_graph(number)
    remove_stale_graphs(catalog, store)
    return True


def remove_graph(catalog: "Catalog", store: "VectorStore"):
    """Search by scans from now on. Call it within the lock of the index."""
    with catalog.writing():
        catalog.set_graph(0)
    remove_stale_graphs(catalog, store)


def graph_path(store: "VectorStore", number: int) -> Path:
    """File of a graph by its number."""
    return store.folder / f"graph-{number}.usearch"


def remove_stale_graphs(catalog: "Catalog", store: "VectorStore"):
    """Remove the files that the catalog does not name. A process that has mapped one can go on with it."""
    for path in store.folder.glob("graph-*"):
        if path != graph_path(store, catalog.graph):
            with suppress(OSError):  # Windows keeps a file that is mapped; the next run removes it
                path.unlink()


def _build(catalog: "Catalog", store: "VectorStore", path: Path, progress: Callable[[int, int], None] | None):
    """Write a graph of all rows that hold the vector of a file. The file is complete or absent."""
    from usearch.index import Index as USearch

    rows = np.setdiff1d(np.arange(catalog.num_rows), catalog.free_rows())
    graph = USearch(
        ndim=store.dimension, metric="cos", dtype="i8", connectivity=CONNECTIVITY, expansion_add=EXPANSION_ADD
    )
    done = 0
    for part in _parts(rows):
        graph.add(part, _codes(store.read(part)))
        done += len(part)
        if progress is not None:
            progress(done, len(rows))
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        graph.save(scratch)
    except RuntimeError as error:  # that is how USearch reports a full disk
        scratch.unlink(missing_ok=True)
        raise OSError(str(error)) from error
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    scratch.replace(path)


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + BUILD_ROWS] for start in range(0, len(rows), BUILD_ROWS)]


def _codes(vectors: np.ndarray) -> np.ndarray:
    """Vectors in int8 at full range, (N, D); the cosine similarity does not depend on the scale."""
    scales = np.maximum(np.abs(vectors).max(1, keepdims=True), np.finfo(np.float32).tiny) / 127
    return np.rint(vectors / scales).astype(np.int8)
