"""Logging of a run: progress bar, `log.jsonl` and experiment trackers."""

import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from training.config import TrainingRecipe
from training.data.batch import Batch
from training.utils.files import write_text

LOG_FILE = "log.jsonl"


class Log:
    """Log of a run: a progress bar with rate and time left, one JSON object per line of `log.jsonl`, and the trackers
    of the recipe.

    A resumed run first drops the lines of the steps that it repeats. A loss that is not finite stops the run. It is
    read while the device computes the next batch, so that the device never has to be waited for.

    Args:
        path: Log file.
        description: Text in front of the progress bar.
        recipe: Recipe of the run, for `log_every`, `max_steps` and `trackers`.
        start: Number of steps done before this process.
        accelerator: Accelerator of this process; only the main process writes.
        num_rows: Number of rows of the data; None for a stream, whose number is not known.
    """

    def __init__(
        self,
        path: Path,
        description: str,
        recipe: TrainingRecipe,
        start: int,
        accelerator: Accelerator,
        num_rows: int | None = None,
    ):
        self.path = path
        self.recipe = recipe
        self.accelerator = accelerator
        self.description = description
        self.is_main = accelerator.is_main_process
        self.num_images = 0
        self.start_s = time.perf_counter()
        self.end_s = 0.0
        self.wait_s = 0.0  # for the loader
        self._unchecked: tuple[int, dict[str, Tensor], Any, list[int]] | None = None
        if recipe.trackers:
            # trackers take plain values only, so a section becomes a text
            config = {name: str(value) for name, value in asdict(recipe).items()}
            accelerator.init_trackers("dcclip", config=config)
        # tqdm shows steps done, time elapsed, time left and steps per second; `step` adds loss and images per second
        self.progress = tqdm(
            total=recipe.max_steps,
            initial=start,
            desc=description,
            unit="step",
            disable=not self.is_main,
            mininterval=1.0,
            dynamic_ncols=True,
        )
        if self.is_main:
            lines = []
            if start and path.exists():
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_text(path, "".join(f"{line}\n" for line in lines if _is_until(line, start)))
        if start:
            self.say(f"resumed at step {start}")
        per_step = recipe.batch_size * accelerator.num_processes
        size = {"samples": recipe.max_steps * per_step}
        epochs = ""
        if num_rows:
            size["epochs"] = round(size["samples"] / num_rows, 2)
            epochs = f", {size['epochs']:,} epochs of {num_rows:,} rows"
        self.say(f"{recipe.max_steps:,} steps of {per_step:,}: {size['samples']:,} samples{epochs}")
        self.write({"event": "resumed" if start else "started", "step": start} | size)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception: object):
        self.end_s = time.perf_counter()
        self.progress.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()  # `Accelerator.end_training` would also end the process group

    def say(self, text: str):
        """Print a line above the progress bar."""
        if self.is_main:
            self.progress.write(f"{self.description}: {text}")

    @property
    def seconds(self) -> float:
        """Wall time of this process's part of the run."""
        return (self.end_s or time.perf_counter()) - self.start_s

    @property
    def images_per_s(self) -> float:
        """Mean throughput of this process's part of the run, over all processes."""
        return self.num_images / self.seconds

    @property
    def data_wait(self) -> float:
        """Share of the time in which the loop waited for its loader, 0..1."""
        return self.wait_s / self.seconds

    def timed(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of a loader; the time that they take is counted."""
        batches = iter(loader)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.wait_s += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def check(self):
        """Check the losses of the last step, before anything is saved.

        Raises:
            FloatingPointError: The loss is not finite; the message names the step and the rows.
        """
        if self._unchecked is None:
            return
        step, losses, copied, rows = self._unchecked
        if copied is not None:
            copied.synchronize()
        values = {name: float(value.numpy()) for name, value in losses.items()}
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(
                f"step {step + 1}: the loss is not finite ({values}); rows {rows}. Lower learning_rate, or check "
                "these rows. Checkpoints are intact."
            )
        self._unchecked = None

    def step(self, step: int, losses: dict[str, Tensor], learning_rate: float, rows: list[int]):
        """Count a step, and log its losses if a line is due. Every process must call it.

        Args:
            step: Number of the step, from 0.
            losses: Losses by name, including their weighted sum `loss`; the mean over all processes is logged.
            learning_rate: Learning rate of the step.
            rows: Rows of the batch.
        """
        self.check()
        on_host = {name: value.to("cpu", non_blocking=True) for name, value in losses.items()}
        copied = None
        if losses["loss"].device.type != "cpu":
            copied = torch.accelerator.current_stream().record_event()
        self._unchecked = step, on_host, copied, rows
        self.num_images += len(rows) * self.accelerator.num_processes
        done = step + 1
        last = self.recipe.max_steps
        if done % self.recipe.log_every == 0 or done == last:
            stacked = torch.stack([value.float() for value in losses.values()])
            means = self.accelerator.reduce(stacked, "mean").tolist()
            values = {
                "learning_rate": learning_rate,
                "images_per_s": round(self.images_per_s, 1),
                "data_wait": round(self.data_wait, 3),
            }
            values |= {name: round(mean, 5) for name, mean in zip(losses, means, strict=True)}
            self.write({"step": done} | values)
            self.accelerator.log(values, step=done)
            postfix = f"loss {values['loss']:.4f}, {self.images_per_s:.0f} images/s"
            self.progress.set_postfix_str(postfix, refresh=False)
        self.progress.update()

    def evaluated(self, step: int, metrics: dict[str, float], is_best: bool):
        """Log the metrics of an evaluation after `step` steps, and whether the student is the best so far."""
        values = {name: round(value, 5) for name, value in metrics.items()}
        self.write({"event": "evaluated", "step": step, "best": is_best} | values)
        self.accelerator.log({f"eval/{name}": value for name, value in values.items()}, step=step)

    def write(self, entry: dict[str, Any]):
        """Append a line to `log.jsonl`, with the time in Unix seconds."""
        if self.is_main:
            line = json.dumps({"time": round(time.time(), 3)} | entry, ensure_ascii=False)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


def _is_until(line: str, start: int) -> bool:
    """Whether a line is of a step up to `start`. A damaged one, such as an incomplete line after a kill, is not."""
    try:
        return json.loads(line)["step"] <= start
    except (ValueError, LookupError, TypeError):
        return False
