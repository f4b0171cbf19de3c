r"""Measure size, latency and memory of our models and of baselines: every model on every backend in its own process.

Examples:
  python -m training.experiments.studies budget
  python -m training.experiments.studies budget --models tiny altclip --backends onnx-int8
  python -m training.experiments.studies budget --models tiny model_cards/dcclip-tiny-photo --repeats 100

A model is the name of a size or a baseline, with random weights, or the folder of a finished student. Latency is the
median per image or text at batch 1, and the start is the time of a new process up to its first image and text. A
second call measures only what is missing.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from training.experiments.studies.baselines import NAMES, TEMPLATES, write_graphs
from training.experiments.studies.harness import Study, StudyOptions
from training.experiments.studies.probe import IMAGE_MS, TEXT_MS
from training.hub import WEIGHTS_FILE
from training.utils.keys import digest_file, no_key
from training.utils.ranges import Count
from training.utils.results import Results, Row, markdown_table

Backend = Literal["onnx-fp32", "onnx-int8"]


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """What to measure.

    Args:
        models: Sizes and baselines by name, and folders of finished students. Names: tiny, small, base,
            chinese-clip-rn50, altclip.
        backends: ONNX Runtime in fp32 or int8.
        threads: Number of CPU threads.
        repeats: Calls of each kind.
    """

    models: list[str] = no_key(default_factory=lambda: list(NAMES))
    backends: list[Backend] = no_key(default_factory=lambda: ["onnx-fp32", "onnx-int8"])
    threads: Count = no_key(default=1)
    repeats: Count = 32
    output_dir: str = no_key(default="runs/studies/budget")


def protocol_of(backend: str, threads: int) -> str:
    """The `protocol` of a result row, such as `onnx-int8, threads 1, batch 1`."""
    return f"{backend}, threads {threads}, batch 1"


def run(options: Options):
    """Measure what is missing in results.json, and print the table."""
    templates = " and ".join(map(repr, TEMPLATES.values()))
    study = Study("budget", options, f"random noise; class names of ELEVATER in {templates}")
    models: dict[str, str] = {}
    for model in options.models:
        name = model if model in NAMES else Path(model).resolve().name
        if name in models:
            raise ValueError(
                f"models: several have the name {name!r}, so their rows could not be told apart. Rename a folder."
            )
        models[name] = model
    for name, model in models.items():
        if model in NAMES:
            continue
        weights = Path(model) / WEIGHTS_FILE
        if not weights.is_file():
            raise ValueError(
                f"models: {model!r} is not one of {', '.join(NAMES)}, and {str(weights)!r} does not exist. "
                "Name the folder of a finished student."
            )
        study.check_weights(name, digest_file(weights))
    for name, model in models.items():
        measure_model(study, options, name, model)
    study.finish(table(study.results))


def measure_model(study: Study, options: Options, name: str, model: str):
    """Measure one model on every backend, with a name in the results; its graphs are deleted afterwards."""
    missing = {}
    for backend in options.backends:
        protocol = protocol_of(backend, options.threads)
        if not study.has(model=name, protocol=protocol):
            missing[backend] = protocol
    if not missing:
        return
    folder = study.folder / ".scratch" / name
    shutil.rmtree(folder, ignore_errors=True)
    # a new process, so that the memory of the largest model is freed
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        facts = pool.submit(write_graphs, model, folder, list(missing)).result()
    settings = {"folder": str(folder), "threads": options.threads, "repeats": options.repeats}
    for backend, protocol in missing.items():
        spec = facts | settings | {"backend": backend, "began": time.monotonic()}
        child = subprocess.run(
            [sys.executable, "-m", "training.experiments.studies.probe", json.dumps(spec)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": str(options.threads)},
        )
        measured = json.loads(child.stdout)
        rows = [Row(model=name, protocol=protocol, **each) for each in measured]
        size = facts["bytes"][backend]
        rows.append(Row(model=name, protocol=backend, metric="bytes", value=size))
        if not study.has(model=name, metric="parameters"):
            rows.append(Row(model=name, metric="parameters", value=facts["parameters"]))
        study.add(rows)
    shutil.rmtree(folder)


def read_costs(results: Results, model: str, backend: str, threads: int = 1) -> dict[str, float]:
    """Parameters, and the costs of a model on a backend: bytes, cold start, peak memory, and latency by metric."""
    protocol = protocol_of(backend, threads)
    protocols = {"parameters": None, "bytes": backend}
    metrics = ("parameters", "bytes", "cold_start_s", "peak_bytes", IMAGE_MS, TEXT_MS)
    return {
        metric: results.mean(model=model, metric=metric, protocol=protocols.get(metric, protocol))
        or 0.0
        for metric in metrics
    }


def table(results: Results) -> str:
    """Markdown table with a line for each model, backend and number of threads."""
    header = ["Model", "Backend", "Parameters", "MB", "Start, s", "Peak, MiB", "ms per image"]
    lines = [[*header, "ms per text"], ["---", "---", *["---:"] * 6]]
    for row in results.rows:
        if row.metric == IMAGE_MS:
            backend, threads, _ = str(row.protocol).split(", ")
            costs = read_costs(results, row.model, backend, int(threads.split()[1]))
            parameters, size, start, peak, *latency = costs.values()
            numbers = (size / 1e6, start, peak / 2**20, *latency)
            cells = [f"{parameters / 1e6:.1f} M", *(f"{value:.1f}" for value in numbers)]
            lines.append([row.model, f"{backend}, {threads}", *cells])
    return markdown_table(lines)
