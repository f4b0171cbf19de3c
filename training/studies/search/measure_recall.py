"""The recall of each stored type of vectors."""

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from modeling_dcclip.vectors_dcclip import DTYPES, VectorStore
from training.data import load_source
from training.search.embedder import Embedder
from training.studies.search.options import RecallOptions
from training.studies.search.photographs import embed_photographs, read_captions
from training.utils.cli import command_of
from training.utils.files import scratch_folder
from training.utils.results import Results, Row, make_meta

NEAREST = 10
REFERENCE = "float32"
SIGNS = "binary without int8"  # the first step of a search in a binary store
# a query (D,) float32 to the rows of its ten best results
Search = Callable[[np.ndarray], np.ndarray]
# for each language the embeddings of captions, (Q, D) float32, and the row of the photograph of each, (Q,) int64
Queries = dict[str, tuple[np.ndarray, np.ndarray]]


def measure_recall(options: RecallOptions, program: str) -> Results:
    """Measure the recall of each type, and write results.json.

    Args:
        options: Options of the command.
        program: Command as users type it, without options.

    Raises:
        ValueError: The data have no captions in both languages, or an image cannot be read.
    """
    embedder, folder = Embedder(options.model, device="cpu"), Path(options.output_dir)
    queries: Queries = {
        language: (embedder.runtime.encode_texts(texts, truncate=True), rows)
        for language, (texts, rows) in read_captions(load_source(options.data)).items()
    }
    own = embed_photographs(embedder, [options.data])
    galleries = [own]
    if options.others:
        galleries.append(np.concatenate([own, embed_photographs(embedder, options.others)]))
    data = " ".join([options.data, *options.others])
    results = Results(make_meta(data, None, command_of(program, options), model=options.model))
    folder.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder / ".recall") as scratch:
        for vectors in galleries:
            results.rows += measure_gallery(vectors, queries, scratch / str(len(vectors)))
    results.write(folder)
    return results


def measure_gallery(vectors: np.ndarray, queries: Queries, folder: Path) -> list[Row]:
    """Measure the recall of each type among some photographs.

    Args:
        vectors: Embeddings of the photographs, (N, D) float32.
        queries: Captions of the first photographs.
        folder: Folder for the stored vectors.

    Returns:
        Bytes of a vector, and for each language `recall_at_10` and `nearest_at_10`, as fractions. The set is N.
    """
    searches, size = dict(_searches(vectors, folder)), f"{len(vectors)} photographs"
    num_bytes = {REFERENCE: 4 * vectors.shape[1], SIGNS: vectors.shape[1] // 8}
    num_bytes |= {dtype: VectorStore(folder, vectors.shape[1], dtype).bytes_per_row for dtype in DTYPES}
    rows = [Row(model=name, metric="bytes_per_vector", set=size, value=num_bytes[name]) for name in searches]
    for language, (embeddings, targets) in queries.items():
        found = {name: [set(search(query).tolist()) for query in embeddings] for name, search in searches.items()}
        for name, results in found.items():
            hits = [int(target) in each for target, each in zip(targets, results, strict=True)]
            shares = [len(best & each) / len(best) for best, each in zip(found[REFERENCE], results, strict=True)]
            for metric, values in ((f"recall_at_{NEAREST}", hits), (f"nearest_at_{NEAREST}", shares)):
                value = statistics.fmean(values)
                rows.append(Row(model=name, metric=metric, set=size, language=language, value=value))
    return rows


def _searches(vectors: np.ndarray, folder: Path) -> Iterator[tuple[str, Search]]:
    """Each type by name, with a function that searches it."""
    stores = {dtype: VectorStore(folder / dtype, vectors.shape[1], dtype) for dtype in DTYPES}
    yield REFERENCE, lambda query: _best(vectors @ query)
    for dtype, store in stores.items():
        store.write(np.arange(len(vectors)), vectors)
        yield dtype, partial(_search, store, len(vectors))
    yield SIGNS, lambda query: _best(stores["binary"].binary_scores(query, len(vectors)))


def _search(store: VectorStore, count: int, query: np.ndarray) -> np.ndarray:
    return store.search(query, count, NEAREST, None)[0]


def _best(scores: np.ndarray) -> np.ndarray:
    """Rows of the ten largest scores; of equal ones the lower row first."""
    return np.argsort(-scores, kind="stable")[:NEAREST]
