r"""Measure size, latency and memory of our models and of baselines: every model on every backend in its own process.

Examples:
  python -m training.studies budget
  python -m training.studies budget --models tiny altclip --backends onnx-int8 --threads 1
  python -m training.studies budget --models tiny model_cards/dcclip-tiny-photo --repeats 100

A model is the name of a size or a baseline, with random weights, or the folder of a finished student. Latency is the
median per image or text, and the start is the time of a new process up to its first image and text. Ratios to AltCLIP
are within one backend. A second call measures only what is missing.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from modeling_dcclip import DCCLIPConfig
from training.studies.baselines import FACTS, NAMES, TEMPLATES, prepare
from training.studies.harness import Study, StudyOptions
from training.teachers.loading import read_config
from training.utils.keys import no_key
from training.utils.results import Results, Row, markdown_table

Backend = Literal["eager", "onnx-fp32", "onnx-int8"]
REFERENCE = "altclip"


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """What to measure.

    Args:
        models: Sizes and baselines by name, and folders of finished students. Names: tiny, small, base,
            chinese-clip-rn50, altclip.
        backends: PyTorch eager, and ONNX Runtime in fp32 or int8.
        threads: Numbers of CPU threads; each number gets a process of its own.
        batch_sizes: Images or texts per call.
        repeats: Calls of each kind, unless they exceed `seconds`.
        seconds: Time limit for one kind of call; at least three calls are made.
    """

    models: list[str] = no_key(default_factory=lambda: list(NAMES))
    backends: list[Backend] = no_key(default_factory=lambda: ["eager", "onnx-fp32", "onnx-int8"])
    threads: list[int] = no_key(default_factory=lambda: [1, 2])
    batch_sizes: list[int] = field(default_factory=lambda: [1, 8])
    repeats: int = 32
    seconds: float = 5.0
    output_dir: str = no_key(default="runs/studies/budget")

    def __post_init__(self):
        self.require_at_least(1, "threads", "batch_sizes", "repeats")
        names = [name_of(model) for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError(
                f"models: two of {' '.join(self.models)} have the same name. Remove or rename one."
            )
        for model in self.models:
            if (
                model not in NAMES
                and read_config("models", model).get("model_type") != DCCLIPConfig.model_type
            ):
                raise ValueError(
                    f"models: {model!r} is neither a finished student nor one of {', '.join(NAMES)}."
                )


def name_of(model: str) -> str:
    """Name of a model in the results: the name itself, or its folder's name."""
    return model if model in NAMES else Path(model).resolve().name


def run(options: Options):
    """Measure what is missing in results.json, and print the table."""
    data = f"random noise as images; class names of ELEVATER in {' and '.join(map(repr, TEMPLATES.values()))}"
    study = Study("budget", options, data)
    failures: dict[str, str] = {}
    for model in options.models:
        measure_model(study, options, model, failures)
    study.results.meta["failures"] = failures
    study.finish(table(study.results))
    for what, reason in failures.items():
        print(f"not measured: {what}: {reason}")


def measure_model(study: Study, options: Options, model: str, failures: dict[str, str]):
    """Measure one model on every backend; its weights and graphs are deleted afterwards."""
    name, own = name_of(model), None if model in NAMES else model
    jobs = [(backend, count) for backend in options.backends for count in options.threads]
    jobs = [
        job
        for job in jobs
        if not study.has(model=name, metric="cold_start_s", protocol=protocol_of(*job))
    ]
    if not jobs:
        return
    folder = study.folder / ".scratch" / name
    # a new process, so that the memory of the largest model is freed
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(prepare, name, own, folder, [*options.backends]).result()
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    if not study.has(model=name, metric="parameters"):
        study.add([Row(model=name, metric="parameters", value=facts["parameters"])])
    for form, size in facts["bytes"].items():
        if not study.has(model=name, metric="bytes", protocol=form):
            study.add([Row(model=name, protocol=form, metric="bytes", value=size)])
    for backend, count in jobs:
        if reason := facts["failures"].get(backend):
            failures[f"{name}, {backend}"] = reason
            continue
        spec = {
            "name": name,
            "weights": facts["weights"],
            "folder": str(folder),
            "backend": backend,
            "threads": count,
        }
        spec |= {
            "batch_sizes": sorted(options.batch_sizes),
            "repeats": options.repeats,
            "seconds": options.seconds,
        }
        os.environ["OMP_NUM_THREADS"] = str(count)
        command = [
            sys.executable,
            "-m",
            "training.studies.probe",
            json.dumps(spec | {"began": time.monotonic()}),
        ]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:  # the other backends are still measured
            failures[f"{name}, {protocol_of(backend, count)}"] = child.stderr.strip()[-500:]
            continue
        study.add([_row(name, backend, count, value) for value in json.loads(child.stdout)])
    shutil.rmtree(folder)


def _row(name: str, backend: str, threads: int, measured: dict[str, Any]) -> Row:
    protocol = protocol_of(backend, threads, measured.get("batch_size"))
    language, metric = measured.get("language"), measured["metric"]
    return Row(
        model=name, protocol=protocol, language=language, metric=metric, value=measured["value"]
    )


def table(results: Results) -> str:
    """Markdown table at batch 1, with a line for each model, backend and number of threads."""
    columns = [
        "Parameters",
        "MB",
        "Start, s",
        "Peak, MiB",
        "ms per image",
        "ms per text",
        f"x {REFERENCE}",
    ]
    lines = [["Model", "Backend", "Threads", *columns], ["---", "---", *["---:"] * 8]]
    pairs = read_pairs(results)
    references = {
        (pair.backend, pair.threads): pair.ms for pair in pairs if pair.model == REFERENCE
    }
    for pair in pairs:
        costs = read_costs(results, pair.model, pair.backend, pair.threads)
        reference = references.get((pair.backend, pair.threads))
        numbers = [*costs.values(), pair.ms_image, pair.ms_text, reference and reference / pair.ms]
        cells = ["-" if value is None else f"{value:.1f}" for value in numbers]
        parameters = f"{(results.mean(model=pair.model, metric='parameters') or 0) / 1e6:.1f} M"
        lines.append([pair.model, pair.backend, str(pair.threads), parameters, *cells])
    return markdown_table(lines)


def protocol_of(backend: str, threads: int, batch_size: int | None = None) -> str:
    """The `protocol` of a result row, such as `eager, threads 1, batch 8`; a cold start has no batch."""
    return f"{backend}, threads {threads}" + (f", batch {batch_size}" if batch_size else "")


@dataclass(frozen=True)
class Pair:
    """Latency of one model on one backend at batch 1.

    Args:
        model: Name of the model.
        backend: Name of the backend, such as `onnx-int8`.
        threads: Number of CPU threads.
        ms_image: Median latency of an image in milliseconds.
        ms_text: Median latency of a text in milliseconds, the mean over languages.
    """

    model: str
    backend: str
    threads: int
    ms_image: float
    ms_text: float

    @property
    def ms(self) -> float:
        """Latency of an image and a text together, in milliseconds."""
        return self.ms_image + self.ms_text


def read_pairs(results: Results) -> list[Pair]:
    """One `Pair` for every model, backend and number of threads that was measured at batch 1."""
    pairs = []
    for row in results.rows:
        backend, threads, batch = (
            (row.protocol or "").split(", ") if row.metric == "ms_per_image_p50" else ("",) * 3
        )
        if batch == "batch 1":
            texts = results.values(model=row.model, metric="ms_per_text_p50", protocol=row.protocol)
            if texts:
                pairs.append(
                    Pair(
                        row.model,
                        backend,
                        int(threads.split()[1]),
                        row.value,
                        statistics.fmean(texts),
                    )
                )
    return pairs


def read_costs(results: Results, model: str, backend: str, threads: int) -> dict[str, float | None]:
    """Size, cold start and peak memory of one model on one backend: `MB`, `start_s`, `peak_MiB`.

    A value that could not be measured is None.
    """
    batch = protocol_of(backend, threads, 1)
    form = backend if backend.startswith("onnx") else "pytorch"
    sources = {
        "MB": ("bytes", form, 1e6),
        "start_s": ("cold_start_s", protocol_of(backend, threads), 1),
        "peak_MiB": ("peak_bytes", batch, 2**20),
    }
    costs = {}
    for name, (metric, how, unit) in sources.items():
        value = results.mean(model=model, metric=metric, protocol=how)
        costs[name] = None if value is None else value / unit
    return costs
