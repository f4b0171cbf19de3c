"""One process after another; what is measured is kept, so that a killed run goes on where it stopped."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from training.hub.cards.device_budget import protocol_of
from training.studies.budget.options import BudgetOptions
from training.studies.budget.prepare import FACTS
from training.utils.files import write_text
from training.utils.results import Row

PARTS = ".parts"
PYTORCH = ("eager", "compiled")


@dataclass(frozen=True)
class Subject:
    """A model that is measured.

    Args:
        name: of a size or a baseline, or a folder's.
        model: the folder of a finished student; None for random weights.
    """

    name: str
    model: str | None = None


def subjects(options: BudgetOptions) -> list[Subject]:
    """The models in their order.

    Raises:
        ValueError: two would have one name.
    """
    found = [
        *map(Subject, options.models),
        *(Subject(Path(folder).resolve().name, folder) for folder in options.model),
    ]
    names = [subject.name for subject in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"model: there are two models named {', '.join(sorted(twice))}. Rename a folder.")
    return found


class Run:
    """One run of the command.

    Args:
        options: what to measure.
    """

    def __init__(self, options: BudgetOptions):
        self.options, self.parts = options, Path(options.output_dir) / PARTS
        self.failures: dict[str, str] = {}

    def measure(self) -> list[Row]:
        """Every model behind every backend at every number of threads, each in a fresh process."""
        rows, options = [], self.options
        found = subjects(options)
        total = len(found) * len(options.backends) * len(options.threads)
        with tqdm(total=total, unit="process", smoothing=0) as progress:
            for subject in found:
                rows += self.measure_model(subject, progress)
        shutil.rmtree(self.parts)
        return rows

    def measure_model(self, subject: Subject, progress: tqdm) -> list[Row]:
        """All of one model. Its weights and graphs go when it is done, its numbers stay."""
        folder = self.parts / subject.name
        key = {"repeats": self.options.repeats, "seconds": self.options.seconds, "sizes": self.options.batch_sizes}
        key |= {"model": subject.model, "backends": self.options.backends}
        facts = self.kept(folder / "measured-facts.json", key)
        jobs = [(backend, threads) for backend in self.options.backends for threads in self.options.threads]
        parts = {job: folder / f"measured-{job[0]}-{job[1]}.json" for job in jobs}
        measured = {job: self.kept(path, key) for job, path in parts.items()}
        if facts is None or None in measured.values():
            progress.set_description(f"{subject.name}: prepare")
            facts = self.prepare(subject, folder)
            self.keep(folder / "measured-facts.json", key, facts)
        rows = list(size_rows(subject.name, facts))
        for (backend, threads), values in measured.items():
            progress.set_description(f"{subject.name}: {protocol_of(backend, threads)}")
            if values is None:
                values = self.probe(subject, folder, facts, backend, threads)
                if values:
                    self.keep(parts[backend, threads], key, values)
            rows += [probe_row(subject.name, backend, threads, value) for value in values]
            progress.update()
        for path in folder.iterdir():
            if not path.name.startswith("measured-"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return rows

    def kept(self, path: Path, key: dict[str, Any]) -> Any:
        """What an earlier run with the same options measured, or None."""
        if not path.exists():
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        return found["values"] if found["key"] == key else None

    def keep(self, path: Path, key: dict[str, Any], values: Any):
        """For a later run."""
        write_text(path, json.dumps({"key": key, "values": values}))

    def prepare(self, subject: Subject, folder: Path) -> dict[str, Any]:
        """Weights and graphs, made in a process of their own."""
        facts = folder / FACTS
        if not facts.exists():
            for leftover in ("weights", "onnx"):
                shutil.rmtree(folder / leftover, ignore_errors=True)
            graphs = [backend for backend in self.options.backends if backend not in PYTORCH]
            model = ["--model", subject.model] if subject.model else []
            run_module("training.studies.budget.prepare", subject.name, str(folder), *model, "--graphs", *graphs)
        return json.loads(facts.read_text(encoding="utf-8"))

    def probe(self, subject: Subject, folder: Path, facts: dict[str, Any], backend: str, threads: int) -> list[dict]:
        """One fresh process; nothing where the graph could not be made."""
        if reason := facts["failures"].get(backend):
            self.failures[f"{subject.name}, {backend}"] = reason
            return []
        options = self.options
        spec = {
            "name": subject.name,
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
        except RuntimeError as error:  # the others are measured all the same
            self.failures[f"{subject.name}, {protocol_of(backend, threads)}"] = str(error)
            return []


def run_module(module: str, *arguments: str, threads: int | None = None) -> str:
    """Run a module in a fresh process; the last line that it printed.

    Raises:
        RuntimeError: it failed; the message ends with what it said.
    """
    number = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    command = [sys.executable, "-m", module, *arguments]
    child = subprocess.run(command, env=os.environ | number, capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{child.stderr[-4000:]}")
    return child.stdout.splitlines()[-1] if child.stdout else ""


def size_rows(name: str, facts: dict[str, Any]) -> Iterator[Row]:
    """What does not depend on time."""
    for metric in ("parameters", "image_parameters", "text_parameters", "embedding_parameters"):
        yield Row(model=name, metric=metric, value=facts[metric])
    for form, size in facts["bytes"].items():
        yield Row(model=name, protocol=form, metric="bytes", value=size)
    for language, count in facts["tokens"].items():
        yield Row(model=name, language=language, metric="tokens_per_text", value=round(count, 2))


def probe_row(name: str, backend: str, threads: int, found: dict[str, Any]) -> Row:
    """One number of a probe."""
    protocol = protocol_of(backend, threads, found.get("batch_size"))
    return Row(
        model=name, protocol=protocol, language=found.get("language"), metric=found["metric"], value=found["value"]
    )
