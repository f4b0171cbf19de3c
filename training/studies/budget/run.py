"""Measure models in one process after another. Results are stored, so that an interrupted run can resume."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from training.hub.cards.device_budget import protocol_of
from training.studies.budget.options import BudgetOptions, MeasuredModel, measured_models
from training.studies.budget.prepare import FACTS
from training.utils.files import write_text
from training.utils.results import Row

PARTS = ".parts"
PYTORCH = ("eager", "compiled")


class Run:
    """One run of the budget command.

    Args:
        options: What to measure.
    """

    def __init__(self, options: BudgetOptions):
        self.options, self.parts = options, Path(options.output_dir) / PARTS
        self.failures: dict[str, str] = {}

    def measure(self) -> list[Row]:
        """Measure every model behind every backend with every number of threads, each in a new process."""
        rows, options = [], self.options
        models = measured_models(options.models)
        total = len(models) * len(options.backends) * len(options.threads)
        with tqdm(total=total, unit="process", smoothing=0) as progress:
            for model in models:
                rows += self.measure_model(model, progress)
        shutil.rmtree(self.parts)
        return rows

    def measure_model(self, model: MeasuredModel, progress: tqdm) -> list[Row]:
        """Measure one model. Its weights and graphs are deleted afterwards, its numbers are stored.

        Args:
            model: Model to measure.
            progress: Progress bar, advanced by one per process.
        """
        folder = self.parts / model.name
        key = {"repeats": self.options.repeats, "seconds": self.options.seconds, "sizes": self.options.batch_sizes}
        key |= {"model": model.folder, "backends": self.options.backends}
        facts = self._load(folder / "measured-facts.json", key)
        jobs = [(backend, threads) for backend in self.options.backends for threads in self.options.threads]
        parts = {job: folder / f"measured-{job[0]}-{job[1]}.json" for job in jobs}
        measured = {job: self._load(path, key) for job, path in parts.items()}
        if facts is None or None in measured.values():
            progress.set_description(f"{model.name}: prepare")
            facts = self.prepare(model, folder)
            self._store(folder / "measured-facts.json", key, facts)
        rows = list(size_rows(model.name, facts))
        for (backend, threads), values in measured.items():
            progress.set_description(f"{model.name}: {protocol_of(backend, threads)}")
            if values is None:
                values = self.probe(model, folder, facts, backend, threads)
                if values:
                    self._store(parts[backend, threads], key, values)
            rows += [probe_row(model.name, backend, threads, value) for value in values]
            progress.update()
        for path in folder.iterdir():
            if not path.name.startswith("measured-"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return rows

    def _load(self, path: Path, key: dict[str, Any]) -> Any:
        """Values that an earlier run with the same options stored, or None."""
        if not path.exists():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["values"] if content["key"] == key else None

    def _store(self, path: Path, key: dict[str, Any], values: Any):
        write_text(path, json.dumps({"key": key, "values": values}))

    def prepare(self, model: MeasuredModel, folder: Path) -> dict[str, Any]:
        """Write weights and graphs in a new process.

        Args:
            model: Model to write.
            folder: Folder for its files.

        Returns:
            Content of the facts file.
        """
        facts = folder / FACTS
        if not facts.exists():
            for leftover in ("weights", "onnx"):
                shutil.rmtree(folder / leftover, ignore_errors=True)
            graphs = [backend for backend in self.options.backends if backend not in PYTORCH]
            spec = {"name": model.name, "folder": str(folder), "model": model.folder, "graphs": graphs}
            run_module("training.studies.budget.prepare", json.dumps(spec))
        return json.loads(facts.read_text(encoding="utf-8"))

    def probe(
        self, model: MeasuredModel, folder: Path, facts: dict[str, Any], backend: str, threads: int
    ) -> list[dict]:
        """Measure a model behind one backend in a new process.

        Args:
            model: Model to measure.
            folder: Folder with its files.
            facts: Content of its facts file.
            backend: One of `options.BACKENDS`.
            threads: Number of CPU threads.

        Returns:
            Measured values; empty if the graph could not be exported or the process failed.
        """
        if reason := facts["failures"].get(backend):
            self.failures[f"{model.name}, {backend}"] = reason
            return []
        options = self.options
        spec = {
            "name": model.name,
            "backend": backend,
            "folder": str(folder),
            "weights": facts["weights"],
            "threads": threads,
            "batch_sizes": sorted(options.batch_sizes),
            "repeats": options.repeats,
            "seconds": options.seconds,
            "began": time.monotonic(),
        }
        try:
            return json.loads(run_module("training.studies.budget.probe", json.dumps(spec), threads=threads))
        except RuntimeError as error:  # the other backends are still measured
            self.failures[f"{model.name}, {protocol_of(backend, threads)}"] = str(error)
            return []


def run_module(module: str, *arguments: str, threads: int | None = None) -> str:
    """Run a module in a new process.

    Args:
        module: Name of the module.
        arguments: Command line arguments.
        threads: Number of OpenMP threads; None inherits it.

    Returns:
        The last line of its output.

    Raises:
        RuntimeError: If it fails; the message ends with its stderr.
    """
    openmp = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    command = [sys.executable, "-m", module, *arguments]
    child = subprocess.run(command, env=os.environ | openmp, capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{child.stderr[-4000:]}")
    return child.stdout.splitlines()[-1] if child.stdout else ""


def size_rows(name: str, facts: dict[str, Any]) -> Iterator[Row]:
    """Rows of parameters, bytes and tokens.

    Args:
        name: Name of the model.
        facts: Content of its facts file.
    """
    for metric in ("parameters", "image_parameters", "text_parameters", "embedding_parameters"):
        yield Row(model=name, metric=metric, value=facts[metric])
    for form, size in facts["bytes"].items():
        yield Row(model=name, protocol=form, metric="bytes", value=size)
    for language, count in facts["tokens"].items():
        yield Row(model=name, language=language, metric="tokens_per_text", value=round(count, 2))


def probe_row(name: str, backend: str, threads: int, measured: dict[str, Any]) -> Row:
    """Row of one value of a probe.

    Args:
        name: Name of the model.
        backend: One of `options.BACKENDS`.
        threads: Number of CPU threads.
        measured: Item of the list that `Probe.run` returns.
    """
    protocol = protocol_of(backend, threads, measured.get("batch_size"))
    return Row(
        model=name,
        protocol=protocol,
        language=measured.get("language"),
        metric=measured["metric"],
        value=measured["value"],
    )
