r"""Measure size, latency and memory of our models and of baselines: every model on every backend in its own process.

Examples:
  python -m training.studies budget
  python -m training.studies budget --models tiny altclip --backends onnx-int8
  python -m training.studies budget --models tiny model_cards/dcclip-tiny-photo --repeats 100

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

from modeling_dcclip import DCCLIPConfig
from training.studies.baselines import FACTS, NAMES, TEMPLATES, prepare
from training.studies.harness import Study, StudyOptions
from training.studies.probe import IMAGE_MS, TEXT_MS
from training.teachers.loading import read_config
from training.utils.keys import no_key
from training.utils.results import Results, Row, markdown_table

Backend = Literal["eager", "onnx-fp32", "onnx-int8"]


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """What to measure.

    Args:
        models: Sizes and baselines by name, and folders of finished students. Names: tiny, small, base,
            chinese-clip-rn50, altclip.
        backends: PyTorch eager, and ONNX Runtime in fp32 or int8.
        threads: Number of CPU threads.
        repeats: Calls of each kind.
    """

    models: list[str] = no_key(default_factory=lambda: list(NAMES))
    backends: list[Backend] = no_key(default_factory=lambda: ["eager", "onnx-fp32", "onnx-int8"])
    threads: int = no_key(default=1)
    repeats: int = 32
    output_dir: str = no_key(default="runs/studies/budget")

    def __post_init__(self):
        self.require_at_least(1, "threads", "repeats")
        if len({name_of(model) for model in self.models}) < len(self.models):
            raise ValueError(
                f"models: two of {' '.join(self.models)} have the same name. Remove or rename one."
            )
        for model in self.models:
            family = None if model in NAMES else read_config("models", model).get("model_type")
            if model not in NAMES and family != DCCLIPConfig.model_type:
                raise ValueError(
                    f"models: {model!r} is neither a finished student nor one of {', '.join(NAMES)}."
                )


def name_of(model: str) -> str:
    """Name of a model in the results: the name itself, or its folder's name."""
    return model if model in NAMES else Path(model).resolve().name


def protocol_of(backend: str, threads: int) -> str:
    """The `protocol` of a result row, such as `eager, threads 1, batch 1`."""
    return f"{backend}, threads {threads}, batch 1"


def run(options: Options):
    """Measure what is missing in results.json, and print the table."""
    templates = " and ".join(map(repr, TEMPLATES.values()))
    study = Study("budget", options, f"random noise; class names of ELEVATER in {templates}")
    failures: dict[str, str] = {}
    for model in options.models:
        measure_model(study, options, model, failures)
    study.results.meta["failures"] = failures
    study.finish(table(study.results))
    for what, reason in failures.items():
        print(f"not measured: {what}: {reason}")


def measure_model(study: Study, options: Options, model: str, failures: dict[str, str]):
    """Measure one model on every backend; its weights and graphs are deleted afterwards."""
    name = name_of(model)
    missing = [
        each
        for each in options.backends
        if not study.has(model=name, protocol=protocol_of(each, options.threads))
    ]
    if not missing:
        return
    folder = study.folder / ".scratch" / name
    # a new process, so that the memory of the largest model is freed
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        own = None if model in NAMES else model
        pool.submit(prepare, name, own, folder, [*options.backends]).result()
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    if not study.has(model=name, metric="parameters"):
        study.add([Row(model=name, metric="parameters", value=facts["parameters"])])
    for form, size in facts["bytes"].items():
        if not study.has(model=name, metric="bytes", protocol=form):
            study.add([Row(model=name, protocol=form, metric="bytes", value=size)])
    for backend in missing:
        if reason := facts["failures"].get(backend):
            failures[f"{name}, {backend}"] = reason
            continue
        spec = {
            "name": name,
            "weights": facts["weights"],
            "folder": str(folder),
            "backend": backend,
            "threads": options.threads,
            "repeats": options.repeats,
            "began": time.monotonic(),
        }
        command = [sys.executable, "-m", "training.studies.probe", json.dumps(spec)]
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        child = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment
        )
        if child.returncode:  # the other backends are still measured
            failures[f"{name}, {backend}"] = child.stderr.strip()[-500:]
            continue
        protocol = protocol_of(backend, options.threads)
        measured = json.loads(child.stdout)
        study.add([Row(model=name, protocol=protocol, **each) for each in measured])
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Costs:
    """What a model costs on one backend; a value that was not measured is None.

    Args:
        parameters: Number of parameters.
        megabytes: Size of the weights or graphs in MB.
        start_s: Cold start in seconds.
        peak_mib: Peak memory in MiB.
        ms_image: Median latency of an image in milliseconds.
        ms_text: Median latency of a text in milliseconds, the mean over languages.
    """

    parameters: float | None
    megabytes: float | None
    start_s: float | None
    peak_mib: float | None
    ms_image: float | None
    ms_text: float | None


def read_costs(results: Results, model: str, backend: str, threads: int = 1) -> Costs:
    """Costs of a model on a backend."""

    def value(metric: str, protocol: str | None, unit: float = 1) -> float | None:
        found = results.mean(model=model, metric=metric, protocol=protocol)
        return None if found is None else found / unit

    protocol = protocol_of(backend, threads)
    return Costs(
        value("parameters", None),
        value("bytes", "pytorch" if backend == "eager" else backend, 1e6),
        value("cold_start_s", protocol),
        value("peak_bytes", protocol, 2**20),
        value(IMAGE_MS, protocol),
        value(TEXT_MS, protocol),
    )


def table(results: Results) -> str:
    """Markdown table with a line for each model, backend and number of threads."""
    header = ["Model", "Backend", "Parameters", "MB", "Start, s", "Peak, MiB", "ms per image"]
    lines = [[*header, "ms per text"], ["---", "---", *["---:"] * 6]]
    measured = [row for row in results.rows if row.metric == IMAGE_MS]
    for row in measured:
        backend, threads, _ = str(row.protocol).split(", ")
        costs = read_costs(results, row.model, backend, int(threads.split()[1]))
        values = (costs.megabytes, costs.start_s, costs.peak_mib, costs.ms_image, costs.ms_text)
        numbers = ["-" if value is None else f"{value:.1f}" for value in values]
        parameters = f"{(costs.parameters or 0) / 1e6:.1f} M"
        lines.append([row.model, f"{backend}, {threads}", parameters, *numbers])
    return markdown_table(lines)
