"""The latency of exact scans on one core."""

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import faiss
import numpy as np
from usearch.index import MetricKind, search

from modeling_dcclip.vectors_dcclip import DTYPES, VectorStore
from training.studies.search.options import ScanOptions
from training.utils.cli import command_of
from training.utils.files import scratch_folder
from training.utils.results import Results, Row, make_meta
from training.utils.timing import interleaved_ms

NEAREST = 10
BLOCK = 65_536  # vectors made at once
NOISE = 1.0  # length of what is added to a vector for a query
REFERENCE = "FAISS, float32"
# a query (D,) float32 to the rows of its ten best vectors
Search = Callable[[np.ndarray], np.ndarray]


def measure_scan(options: ScanOptions, program: str) -> Results:
    """Measure every program, and write results.json.

    Args:
        options: Options of the command.
        program: Command as users type it, without options.
    """
    rng = np.random.default_rng(options.seed)
    vectors = np.empty((options.num_vectors, options.dimension), np.float32)
    for start in range(0, len(vectors), BLOCK):
        block = rng.standard_normal(vectors[start : start + BLOCK].shape, np.float32)
        vectors[start : start + BLOCK] = block / np.linalg.norm(block, axis=1, keepdims=True)
    chosen = vectors[rng.choice(len(vectors), options.num_queries, replace=False)]
    queries = chosen + NOISE * _unit(rng.standard_normal(chosen.shape, np.float32))
    folder = Path(options.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(make_meta("random vectors", options.seed, command_of(program, options), threads=1))
    with scratch_folder(folder / ".scan") as scratch:
        results.rows = measure_searches(dict(_searches(vectors, scratch)), _unit(queries), vectors.shape)
    results.write(folder)
    return results


def measure_searches(searches: dict[str, tuple[Search, float]], queries: np.ndarray, shape: tuple) -> list[Row]:
    """Latency and recall of each search.

    Args:
        searches: For each name the search, and bytes of a vector.
        queries: Queries, (Q, D) float32, of unit length.
        shape: Number of vectors and of dimensions.

    Returns:
        `ms` is the median latency of a query, `recall_at_10` a fraction.
    """
    found = {name: [set(search(query).tolist()) for query in queries] for name, (search, _) in searches.items()}
    calls = {name: partial(_each, search, cycle(queries)) for name, (search, _) in searches.items()}
    times = interleaved_ms(calls, len(queries))
    rows, size = [], f"{shape[0]:,} x {shape[1]}"
    for name, (_, num_bytes) in searches.items():
        shares = [len(own & best) / len(best) for own, best in zip(found[name], found[REFERENCE], strict=True)]
        for metric, value in (
            ("ms", statistics.median(times[name])),
            (f"recall_at_{NEAREST}", statistics.fmean(shares)),
            ("bytes_per_vector", num_bytes),
        ):
            rows.append(Row(model=name, metric=metric, set=size, value=round(value, 4)))
            print(f"{name}: {metric} {value:.4g}", flush=True)
    return rows


def _each(search: Search, queries: Iterator[np.ndarray]):
    """Search the next query."""
    search(next(queries))


def _searches(vectors: np.ndarray, folder: Path) -> Iterator[tuple[str, tuple[Search, float]]]:
    """Each program by name, with its search and its bytes of a vector."""
    count, dimension = vectors.shape
    for dtype in DTYPES:
        store = VectorStore(folder / dtype, dimension, dtype)
        for start in range(0, count, BLOCK):
            store.write(np.arange(start, min(start + BLOCK, count)), vectors[start : start + BLOCK])
        yield f"dcclip, {dtype}", (partial(_search_store, store, count), store.bytes_per_row)
    for name, index in (
        (REFERENCE, faiss.IndexFlatIP(dimension)),
        ("FAISS, float16", faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, _INNER)),
        ("FAISS, int8", faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_8bit, _INNER)),
    ):
        index.train(vectors[:BLOCK])
        index.add(vectors)
        yield name, (partial(_search_faiss, index), index.sa_code_size())
    codes = _codes(vectors)
    yield "USearch, int8", (partial(_search_usearch, codes), dimension)


_INNER = faiss.METRIC_INNER_PRODUCT


def _search_store(store: VectorStore, count: int, query: np.ndarray) -> np.ndarray:
    return store.search(query, count, NEAREST, None)[0]


def _search_faiss(index: faiss.Index, query: np.ndarray) -> np.ndarray:
    return index.search(query[None], NEAREST)[1][0]


def _search_usearch(codes: np.ndarray, query: np.ndarray) -> np.ndarray:
    return search(codes, _codes(query[None])[0], NEAREST, MetricKind.Cos, exact=True, threads=1).keys


def _codes(vectors: np.ndarray) -> np.ndarray:
    """Vectors in int8, scaled by the largest value of each, as USearch compares them."""
    codes = np.empty(vectors.shape, np.int8)
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        codes[start : start + BLOCK] = np.rint(127 * block / np.abs(block).max(1, keepdims=True))
    return codes


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
