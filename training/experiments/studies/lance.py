r"""Measure `--format lance` with millions of vectors: recall, latency and memory of searches, and the cost of writing.

Examples:
  python -m training.experiments.studies lance --photos DATA
  python -m training.experiments.studies lance --photos DATA --sizes 1000000 --output_dir runs/lance

The vectors are embeddings of the training photographs in DATA, with small rotations and noise. The queries are the
captions and photographs for validation, in a process on two cores. A second call measures only missing sizes.
"""

import os
import random
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.index.bulk import EmbeddedImage, write_index
from modeling_dcclip.search.index.lance import LanceIndex
from modeling_dcclip.search.query.query import embed_query
from training.experiments.studies.harness import Study, StudyOptions
from training.text.writing_systems import LANGUAGES
from training.utils.files import atomic_write
from training.utils.keys import digest_file, no_key
from training.utils.process import peak_bytes
from training.utils.ranges import Count
from training.utils.results import PLOT_FILE, TITLE_WIDTH, Results, Row, markdown_table

PHOTOS = 2000
TOP = 10
BATCH = 8192
ROTATIONS = 20
# lengths by which a vector of length 1 is moved
ROTATED = 0.3
NOISE = 0.3
PATH = "photos/{:09}.jpg"
SIZES = (500_000, 8_000_000)
TIMES = (10**18, 17 * 10**17)
CORES = 2
METRICS = {
    "recall": "Recall of the exact ten: captions en / zh / photographs",
    "ms_per_query": "Latency of a query, p50 / p95, ms",
    "peak_mb": "Peak memory of the search, MB",
    "write_s": "Time to write and index, s",
    "bytes_per_vector": "Bytes per vector",
}


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """What to measure.

    Args:
        photos: Folder with `photos_NAME_train.parquet` and `photos_NAME_validation.parquet`: images, and captions in
            English and Chinese for validation.
        model: Folder of an exported model.
        sizes: Numbers of vectors.
        queries: Number of photographs whose captions and images are the queries.
    """

    photos: str = no_key()
    model: str = no_key(default="model_cards/dcclip-tiny-photo")
    sizes: list[Count] = no_key(default_factory=lambda: [1_000_000, 3_000_000, 10_000_000])
    queries: Count = 100
    output_dir: str = no_key(default="runs/studies/lance")


def run(options: Options):
    """Measure the sizes that are missing in results.json, and print the table."""
    train, held_out = (
        sorted(Path(options.photos).glob(f"photos_*_{split}.parquet"))
        for split in ("train", "validation")
    )
    if not train or not held_out:
        raise ValueError(
            f"photos: {options.photos!r} needs photos_NAME_train.parquet and photos_NAME_validation.parquet."
        )
    runtime = Runtime(options.model)
    inputs = (runtime.file("vision"), runtime.file("text"), *train, *held_out)
    digests = [digest_file(path) for path in inputs]
    study = Study("lance", options, options.photos, digests=digests)
    sizes = [size for size in sorted(options.sizes) if not study.has(protocol=str(size))]
    if sizes:
        vectors = turned(runtime.encode_images([row["image"] for row in _sample(train, PHOTOS)]))
        queries: list[dict[str, Any]] = []
        for row in _sample(held_out, options.queries):
            captions = [{"text": row[language][0]} for language in LANGUAGES]
            queries += [*captions, {"text": "", "images": [row["image"]]}]
        for size in sizes:
            study.add(measure(study.folder / ".scratch", runtime, vectors, size, queries))
    plot(study.results, study.folder)
    study.finish(table(study.results))


def _sample(paths: Sequence[Path], count: int) -> list[dict[str, Any]]:
    """Draw rows with an image, and with captions in both languages if the files have them."""
    rows = []
    for path in paths:
        columns = {"image", *LANGUAGES} & {*pq.read_schema(path).names}
        rows += pq.read_table(path, columns=sorted(columns)).to_pylist()
    rows = [row for row in rows if all(row.values())]
    return random.Random(0).sample(rows, min(count, len(rows)))


def measure(
    folder: Path,
    runtime: Runtime,
    vectors: np.ndarray,
    size: int,
    queries: Sequence[dict[str, Any]],
) -> list[Row]:
    """Write an index, and search it in a new process.

    Args:
        folder: Folder of the index, which is removed afterwards.
        runtime: Model.
        vectors: Embeddings that the images are made of, (V, D).
        size: Number of vectors.
        queries: Arguments of searches: an English caption, a Chinese one, an image, and so on.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    write_index(folder, runtime.folder, make_images(vectors, size), use_lance=True)
    seconds = time.monotonic() - began
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*"))
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found, ms, peak = pool.submit(search, folder, runtime.folder, queries).result()
    exact = nearest(folder, np.stack([embed_query(runtime, **query) for query in queries]))
    shutil.rmtree(folder)
    shares = [len({*a} & {*b}) / TOP for a, b in zip(found, exact, strict=True)]
    recalls = np.reshape(shares, (-1, 3)).mean(0)
    measured = [recalls, np.percentile(ms, (50, 95)), [peak / 1e6], [seconds], [num_bytes / size]]
    rows = []
    for metric, values in zip(METRICS, measured, strict=True):
        for value in values:
            rows.append(Row(model=runtime.folder.name, metric=metric, value=float(value)))
    return [replace(row, protocol=str(size)) for row in rows]


def turned(photos: np.ndarray) -> np.ndarray:
    """Embeddings of photographs (P, D) by several small rotations, (R P, D)."""
    rng = np.random.default_rng(0)
    width = photos.shape[1]
    found = []
    for _ in range(ROTATIONS):
        skew = rng.standard_normal((width, width)) * ROTATED / (8 * width) ** 0.5
        skew -= skew.T
        # Cayley's transform
        rotation = np.linalg.solve(np.eye(width) - skew, np.eye(width) + skew)
        found.append(photos @ rotation.astype(np.float32))
    return np.concatenate(found)


def make_images(vectors: np.ndarray, size: int) -> Iterator[list[EmbeddedImage]]:
    """Make so many embedded images of embeddings (V, D) with noise, in batches."""
    rng = np.random.default_rng(0)
    count, width = vectors.shape
    for start in range(0, size, BATCH):
        noise = rng.standard_normal((min(BATCH, size - start), width), np.float32)
        noisy = vectors[rng.integers(count, size=len(noise))] + noise * NOISE / width**0.5
        noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
        # a column of one value would be stored, and read, as no real one is
        sizes = rng.integers(*SIZES, len(noisy)).tolist()
        times = rng.integers(*TIMES, len(noisy)).tolist()
        yield [
            EmbeddedImage(
                name=PATH.format(number),
                vector=vector,
                error=None,
                digest=number.to_bytes(16),
                size=size,
                mtime_ns=mtime,
                taken=f"20{number % 20:02}-05-06 07:08:09",
            )
            for number, (vector, size, mtime) in enumerate(
                zip(noisy, sizes, times, strict=True), start
            )
        ]


def search(
    folder: Path, model: Path, queries: Sequence[dict[str, Any]]
) -> tuple[list[list[str]], list[float], int]:
    """Search an index.

    Returns:
        Paths of the first ten images of each query, its latency in ms, and the peak memory of the process in bytes.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    warnings.simplefilter("ignore")  # the images are not files
    found, ms = [], []
    with LanceIndex(folder, model) as index:
        index.search("warm up")
        for query in queries:
            began = time.perf_counter()
            hits = index.search(**query, top=TOP)
            ms.append(1000 * (time.perf_counter() - began))
            found.append([hit.path for hit in hits])
    return found, ms, peak_bytes()


def nearest(folder: Path, queries: np.ndarray) -> list[list[str]]:
    """Paths of the ten images with the highest cosine to each query (Q, D), among all."""
    import lance

    numbers = np.zeros((len(queries), 0), int)
    cosines = np.zeros(numbers.shape)
    start = 0
    for batch in lance.dataset(folder).to_batches(columns=["vector"], batch_size=BATCH):
        stored = batch["vector"].flatten().to_numpy().reshape(len(batch), -1).astype(np.float32)
        stored /= np.linalg.norm(stored, axis=1, keepdims=True)
        cosines = np.concatenate([cosines, queries @ stored.T], 1)
        new = np.broadcast_to(np.arange(start, start + len(batch)), (len(queries), len(batch)))
        numbers = np.concatenate([numbers, new], 1)
        first = np.argpartition(-cosines, TOP)[:, :TOP]
        numbers, cosines = (np.take_along_axis(each, first, 1) for each in (numbers, cosines))
        start += len(batch)
    return [[PATH.format(number) for number in row] for row in numbers]


def _by_size(results: Results, metric: str) -> dict[int, list[float]]:
    """Values of a metric by the number of vectors, in order."""
    sizes = sorted({int(row.protocol or 0) for row in results.rows})
    return {size: results.values(metric=metric, protocol=str(size)) for size in sizes}


def table(results: Results) -> str:
    """Markdown table with a column for each number of vectors."""
    sizes = [f"{size:,}" for size in _by_size(results, "recall")]
    lines = [["Vectors", *sizes], ["---", *["---:"] * len(sizes)]]
    for metric, title in METRICS.items():
        by_size = _by_size(results, metric)
        cells = [" / ".join(f"{value:,.4g}" for value in values) for values in by_size.values()]
        lines.append([title, *cells])
    return markdown_table(lines)


def plot(results: Results, folder: Path):
    """Draw each metric by the number of vectors."""
    from matplotlib.figure import Figure  # without pyplot, which looks for a display

    figure = Figure((20, 4), layout="tight")
    panels = figure.subplots(1, len(METRICS))
    for panel, metric in zip(panels, METRICS, strict=True):
        by_size = _by_size(results, metric)
        panel.plot([*by_size], [*by_size.values()], marker="o")
        panel.set(title=fill(METRICS[metric], TITLE_WIDTH), xlabel="vectors", ylim=(0, None))
    with atomic_write(folder / PLOT_FILE) as scratch:
        figure.savefig(scratch, format="png")
