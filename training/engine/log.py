"""What a run says of itself: a progress bar, one JSON object a line, and trackers."""

import importlib.util
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from training.config import TrainingRecipe
from training.engine.optimizer import learning_rate_at
from training.utils.files import write_text

LOG_FILE = "log.jsonl"
PROJECT = "dcclip"


class Log:
    """A progress bar, one JSON object a line, and the trackers that the recipe names. A resumed run drops the lines of
    steps that it does again.

    Args:
        path: the file.
        description: shown before the bar.
        recipe: how often a line is written, and for how many steps.
        start: steps done before.
        accelerator: only the main process writes.
    """

    def __init__(self, path: Path, description: str, recipe: TrainingRecipe, start: int, accelerator: Accelerator):
        self.path, self.recipe, self.accelerator = path, recipe, accelerator
        self.is_main = accelerator.is_main_process
        self.num_images, self.began, self.seconds = 0, time.perf_counter(), 0.0
        if recipe.trackers:
            accelerator.init_trackers(PROJECT, config=_flat(asdict(recipe)))
        self.progress = tqdm(
            total=recipe.max_steps,
            initial=start,
            desc=description,
            unit="step",
            disable=not self.is_main,
            mininterval=1.0,
        )
        if self.is_main:
            write_text(path, "".join(f"{line}\n" for line in _kept(path, start)))
        if start and self.is_main:
            self.progress.write(f"{description}: resumed at step {start}")
        self.write({"event": "resumed" if start else "started", "step": start})

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception):
        self.seconds = time.perf_counter() - self.began
        self.progress.close()
        if self.recipe.trackers:  # `end_training` would end the processes' group, too
            for tracker in self.accelerator.trackers:
                tracker.finish()

    @property
    def rate(self) -> float:
        """Images a second since the start of this run."""
        return self.num_images / max(self.seconds or time.perf_counter() - self.began, 1e-9)

    def step(self, step: int, losses: dict[str, Tensor]):
        """Count one step, and write its losses if it is its turn."""
        done = step + 1
        if done % self.recipe.log_every == 0 or done == self.recipe.max_steps:
            values = {name: round(value.item(), 5) for name, value in losses.items()}
            rates = {"learning_rate": learning_rate_at(step, self.recipe), "images_per_s": round(self.rate, 1)}
            self.write({"step": done} | rates | values)
            self.track(rates | values, done)
            self.progress.set_postfix_str(f"loss {values['loss']:.4f}, {self.rate:.0f} images/s", refresh=False)
        self.progress.update()

    def evaluated(self, step: int, metrics: dict[str, float], is_best: bool):
        """Write what an evaluation gave."""
        values = {name: round(value, 5) for name, value in metrics.items()}
        self.write({"event": "evaluated", "step": step, "best": is_best} | values)
        self.track({f"eval/{name}": value for name, value in values.items()}, step)

    def track(self, values: dict[str, float], step: int):
        """Hand numbers to the trackers."""
        if self.recipe.trackers:
            self.accelerator.log(values, step=step)

    def write(self, entry: dict[str, Any]):
        """Append one line."""
        if self.is_main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": round(time.time(), 3)} | entry, ensure_ascii=False) + "\n")


def require_trackers(names: Sequence[str]):
    """Accelerate leaves out what is not installed, and says nothing.

    Raises:
        ValueError: one of them is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"trackers: {name!r} is not installed. pip install {name}, or leave it out.")


def _kept(path: Path, start: int) -> list[str]:
    """The lines up to step `start`; a last one that was cut short, as by a kill, is none."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if start and path.exists() else []:
        try:
            if json.loads(line)["step"] <= start:
                kept.append(line)
        except json.JSONDecodeError:
            continue
    return kept


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"data": {"train": x}}` as `{"data.train": x}`, for trackers that take plain values alone."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return flat
