r"""Measure the search over photographs: rate of indexing, growth of an index, latency of a scan, and recall of int8.

Examples:
  python -m training.studies search --data photos.parquet
  python -m training.studies search --data photos.parquet --num_images 200 --num_vectors 100000

The rate compares `dcclip index`, including its start, with a bare loop that decodes the same JPEG files and encodes
ready tensors. Growth runs `dcclip index` and `dcclip search` on more and more files, each in a new process. The scan
compares the int8 store with numpy on random float32 vectors. Recall counts the captions of both languages whose own
photograph is among the ten best by int8 and by float32 vectors.
"""

import io
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.catalog import Catalog
from modeling_dcclip.search.vectors import VectorStore, largest
from training.data import open_image, usable_captions
from training.data.images import image_cell
from training.edge.session import open_session
from training.studies.harness import CAPTIONED, Study, StudyOptions, open_rows
from training.text.writing_systems import LANGUAGES
from training.utils.files import scratch_folder
from training.utils.results import Results, Row, markdown_table

NEAREST, QUALITY, BATCH_SIZE = 10, 88, 64
QUERIES = ("海边的日落", "a dog in the snow")


@dataclass(frozen=True)
class _Child:
    """A process that has ended.

    Args:
        output: What it printed.
        seconds: Wall time in seconds, including startup.
        cpu_s: Processor time of all its threads in seconds, which other load on the machine hardly changes.
        peak_bytes: Peak memory.
    """

    output: str
    seconds: float
    cpu_s: float
    peak_bytes: int


# runs a module, then prints the costs of its process; torch is not imported
_RUN = """
import json, runpy, sys, time
from training.utils.process import peak_bytes
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=False)
except SystemExit as ended:
    if ended.code:
        raise
print(json.dumps([time.process_time(), peak_bytes()]))
"""


def _run_module(module: str, *arguments: str) -> _Child:
    """Run a Python module in a process of its own, and measure it.

    Raises:
        RuntimeError: It failed.
    """
    start = time.perf_counter()
    command = [sys.executable, "-c", _RUN, module, *arguments]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if child.returncode:
        raise RuntimeError(
            f"{module} {' '.join(arguments)[:200]} failed: {child.stderr.strip()[-500:]}"
        )
    output, _, costs = child.stdout.rstrip("\n").rpartition("\n")
    return _Child(output, seconds, *json.loads(costs))


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """What to index and search.

    Args:
        data: Photographs with captions: a source with the columns `image`, `en` and `zh`.
        model: Folder of an exported model.
        num_images: Number of files of the rate; they are repeated if `data` has fewer.
        counts: Numbers of files of a growing index.
        width: Width of the JPEG files in pixels.
        rounds: Runs of each measurement.
        num_vectors: Number of random vectors of the scan.
        dimension: Number of dimensions of these vectors.
    """

    data: str
    model: str = "model_cards/dcclip-tiny-photo"
    num_images: int = 600
    counts: list[int] = field(default_factory=lambda: [500, 2000])
    width: int = 1000
    rounds: int = 3
    num_vectors: int = 1_000_000
    dimension: int = 256
    output_dir: str = "runs/studies/search"

    def __post_init__(self):
        self.require_at_least(
            1, "num_images", "counts", "width", "rounds", "num_vectors", "dimension"
        )


def run(options: Options):
    """Measure what is missing in results.json, and print the table."""
    study = Study("search", options, options.data)
    rows = open_rows(options.data, CAPTIONED, "data")
    with scratch_folder(study.folder / "scratch") as scratch:
        if not study.has(metric="images_per_s"):
            study.add(
                measure_rate(
                    options, write_photos(scratch / "rate", rows, options.num_images, options.width)
                )
            )
        for count in options.counts:
            if not study.has(set=f"{count} files"):
                write_photos(scratch / "growth", rows, count, options.width)
                study.add(measure_growth(options, scratch, count))
        if not study.has(metric="scan_ms"):
            study.add(measure_scan(options, scratch / "scan"))
        if not study.has(metric="recall_at_10"):
            study.add(measure_recall(options, rows, scratch / "recall"))
    study.finish(table(study.results))


def table(results: Results) -> str:
    """Markdown table with a line for each number."""
    lines = [["Measured", "Set", "Language", "Metric", "Value"], ["---"] * 4 + ["---:"]]
    for row in results.rows:
        lines.append(
            [
                row.model,
                row.set or "",
                row.language or "",
                row.metric.replace("_", " "),
                f"{row.value:.4g}",
            ]
        )
    return markdown_table(lines)


def write_photos(folder: Path, rows: Dataset, count: int, width: int) -> list[Path]:
    """Write JPEG files of distinct content: the photographs, repeated with a comment that numbers them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            image = open_image(image_cell(rows[number % len(rows)]["image"]) or {})
            content = io.BytesIO()
            resized = image.resize((width, max(1, round(width * image.height / image.width))))
            resized.save(content, "JPEG", quality=QUALITY, comment=str(number))
            path.write_bytes(content.getvalue())
    return paths


def measure_rate(options: Options, paths: list[Path]) -> list[Row]:
    """Images per second of processor time, of `dcclip index` and of a bare loop on the same files, in turn."""
    runtime = Runtime(options.model, threads=1)
    edge = runtime.preprocess.edge or 0
    ready = runtime.preprocess(paths[0])[None]
    session = open_session(runtime.file("vision"), 1)

    def encode(path: Path):
        with Image.open(path) as image:
            image.draft("RGB", (edge, edge))
            image.load()
        return session.run(None, {"pixel_values": ready})

    rates: dict[str, list[float]] = {"dcclip index": [], "bare loop": []}
    for number in range(options.rounds):
        index = paths[0].parents[1] / f"index{number}"
        child = _run_module(
            "modeling_dcclip.command",
            "index",
            str(paths[0].parent),
            "--model",
            options.model,
            "--index",
            str(index),
        )
        rates["dcclip index"].append(len(paths) / child.cpu_s)
        start = time.process_time()
        with ThreadPoolExecutor() as pool:
            list(pool.map(encode, paths))
        rates["bare loop"].append(len(paths) / (time.process_time() - start))
    rows = [
        Row(model=name, metric="images_per_s", value=statistics.median(each))
        for name, each in rates.items()
    ]
    ratio = statistics.median(own / bare for own, bare in zip(*rates.values(), strict=True))
    return [*rows, Row(model="dcclip index", metric="over_bare_loop", value=ratio)]


def measure_growth(options: Options, scratch: Path, count: int) -> list[Row]:
    """Memory of indexing, and time of a run without changes and of a first answer, in one index."""
    index = ["--index", str(scratch / "growing")]
    command = ["index", str(scratch / "growth"), "--model", options.model, *index]
    first = _run_module("modeling_dcclip.command", *command)
    again = [_run_module("modeling_dcclip.command", *command) for _ in range(options.rounds)]
    answers = [_run_module("modeling_dcclip.command", "search", query, *index) for query in QUERIES]
    values = {
        "index_peak_bytes": first.peak_bytes,
        "unchanged_cpu_s": statistics.median(each.cpu_s for each in again),
        "first_answer_cpu_s": statistics.median(each.cpu_s for each in answers),
        "search_peak_bytes": max(each.peak_bytes for each in answers),
    }
    return [
        Row(model="dcclip", set=f"{count} files", metric=name, value=value)
        for name, value in values.items()
    ]


def measure_scan(options: Options, folder: Path) -> list[Row]:
    """Latency of the ten nearest of random vectors, one query at a time, by the store and by numpy."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((options.num_vectors, options.dimension), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = (
        vectors[:20]
        + rng.standard_normal((20, options.dimension), np.float32) / options.dimension**0.5
    )
    store = VectorStore(Catalog(folder / "scan.sqlite", create=True), options.dimension)
    store.write(np.arange(len(vectors)), vectors)
    calls = {
        "dcclip, int8": lambda query: largest(store.scores(query, len(vectors)), NEAREST),
        "numpy, float32": lambda query: np.argpartition(-(vectors @ query), NEAREST)[:NEAREST],
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for query in queries:
        for name, call in calls.items():
            start = time.perf_counter()
            call(query)
            times[name].append(1000 * (time.perf_counter() - start))
    size = f"{len(vectors)} x {options.dimension}"
    return [
        Row(model=name, set=size, metric="scan_ms", value=statistics.median(each))
        for name, each in times.items()
    ]


def measure_recall(options: Options, rows: Dataset, folder: Path) -> list[Row]:
    """Share of the captions whose own photograph is among the ten best, by int8 and by float32 vectors."""
    runtime = Runtime(options.model, threads=1)
    images = [open_image(image_cell(cell) or {}) for cell in rows["image"]]
    parts = [
        runtime.encode_images(images[at : at + BATCH_SIZE])
        for at in range(0, len(images), BATCH_SIZE)
    ]
    vectors = np.concatenate(parts).astype(np.float32)
    store = VectorStore(Catalog(folder / "recall.sqlite", create=True), vectors.shape[1])
    store.write(np.arange(len(vectors)), vectors)
    measured = []
    for language in LANGUAGES:
        pairs = [
            (text, number)
            for number, cell in enumerate(rows[language])
            for text in usable_captions(cell)[0]
        ]
        queries = runtime.encode_texts([text for text, _ in pairs], truncate=True)
        hits: dict[str, list[bool]] = {"int8": [], "float32": []}
        for query, (_, number) in zip(queries, pairs, strict=True):
            hits["int8"].append(number in largest(store.scores(query, len(vectors)), NEAREST))
            hits["float32"].append(
                number in np.argsort(-(vectors @ query), kind="stable")[:NEAREST]
            )
        for name, found in hits.items():
            value = statistics.fmean(found)
            where = f"{len(vectors)} photographs"
            measured.append(
                Row(model=name, metric="recall_at_10", value=value, set=where, language=language)
            )
    return measured
