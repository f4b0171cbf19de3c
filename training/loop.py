"""The one training loop: step, log, save, resume. It knows optimizer and Accelerator, and no loss by name."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from training import checkpoint
from training.checkpoint import Artefact
from training.config import TrainingRecipe
from training.data import KeyedBatches, PairDataset, make_loader
from training.tasks import Task
from training.transforms import keyed_uniform

LOG_FILE = "log.jsonl"


@dataclass(frozen=True)
class TrainingResult:
    """What a run reports.

    Args:
        steps: optimizer steps done in all.
        seconds: wall time of this run's steps.
        pictures_per_s: over this run.
        skipped: samples left out, by cause, in words.
    """

    steps: int
    seconds: float
    pictures_per_s: float
    skipped: str


def learning_rate_at(step: int, recipe: TrainingRecipe) -> float:
    """Linear warm-up, then cosine to zero or constant; a pure function of the step."""
    warmup = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    if recipe.schedule == "constant":
        return recipe.learning_rate * warmup
    return recipe.learning_rate * warmup * (1 + math.cos(math.pi * step / recipe.max_steps)) / 2


def make_optimizer(task: Task, recipe: TrainingRecipe) -> torch.optim.AdamW:
    """AdamW; matrices and kernels decay, while biases, norms and the logit scale do not."""
    parameters = [parameter for parameter in task.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)


def train(
    task: Task,
    dataset: PairDataset,
    artefact: Artefact,
    accelerator: Accelerator,
    description: str,
    evaluate: Callable[[int], dict[str, float]] | None = None,
    evaluate_every: int = 0,
) -> TrainingResult:
    """Train to the recipe's last step and leave the finished Hub folder in `output_dir`.

    Args:
        task: what is learnt.
        dataset: from what.
        artefact: what a checkpoint consists of.
        accelerator: of this process.
        description: shown before the progress bar.
        evaluate: called with the step every `evaluate_every` steps; what it returns is logged.
        evaluate_every: steps; 0 never.

    Raises:
        FloatingPointError: the loss is no longer finite; the message names step and pictures.
    """
    recipe = artefact.recipe
    output_dir = Path(recipe.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    task.to(accelerator.device, memory_format=torch.channels_last)
    optimizer = make_optimizer(task, recipe)
    start = checkpoint.resume(output_dir, task, optimizer) if recipe.resume else 0
    model, optimizer = accelerator.prepare(task, optimizer)
    log = Log(output_dir / LOG_FILE, is_main=accelerator.is_main_process, keep=start)
    log.write({"event": "resumed" if start else "started", "step": start})
    batches = KeyedBatches(
        rows=dataset.usable_rows,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        num_views=task.num_views,
        start=start,
        stop=recipe.max_steps,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    began, num_pictures = time.perf_counter(), 0
    task.train()
    with tqdm(
        total=recipe.max_steps,
        initial=start,
        desc=description,
        unit="step",
        disable=not accelerator.is_main_process,
        mininterval=1.0,
    ) as progress:
        for step, batch in enumerate(make_loader(dataset, batches), start=start):
            for row, cause in batch.pop("skipped"):
                dataset.skipped.add(row, cause)
            if not batch:
                continue  # no picture of this batch decoded; all of them are counted
            torch.manual_seed(int(keyed_uniform(recipe.seed, step, accelerator.process_index, num=1)[0, 0] * 2**53))
            batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            losses = _step(model, batch, optimizer, accelerator, step, recipe)
            task.after_step()
            num_pictures += len(batch["pictures"]) * accelerator.num_processes
            progress.update()
            done = step + 1
            if done % recipe.log_every == 0 or done == recipe.max_steps:
                values = {name: round(value.item(), 5) for name, value in losses.items()}
                rate = num_pictures / (time.perf_counter() - began)
                log.write(
                    {"step": done, "learning_rate": learning_rate_at(step, recipe), "pictures_per_s": round(rate, 1)}
                    | values
                )
                progress.set_postfix_str(f"loss {values['loss']:.4f}, {rate:.0f} pictures/s", refresh=False)
            if evaluate is not None and evaluate_every and done % evaluate_every == 0:
                log.write({"event": "evaluated", "step": done} | evaluate(done))
                task.train()
            if recipe.save_every and done % recipe.save_every == 0 and accelerator.is_main_process:
                checkpoint.save_checkpoint(artefact, done, task, optimizer)
    seconds = time.perf_counter() - began
    if accelerator.is_main_process:
        task.eval()
        checkpoint.save_final(artefact)
    accelerator.wait_for_everyone()
    log.write(
        {"event": "finished", "step": recipe.max_steps, "seconds": round(seconds, 1), "skipped": str(dataset.skipped)}
    )
    return TrainingResult(recipe.max_steps, seconds, num_pictures / max(seconds, 1e-9), str(dataset.skipped))


def _step(
    model: torch.nn.Module,
    batch: dict[str, Any],
    optimizer,
    accelerator: Accelerator,
    step: int,
    recipe: TrainingRecipe,
) -> dict[str, Tensor]:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, recipe)
    optimizer.zero_grad()
    with accelerator.autocast():
        losses = model(batch)
    if not torch.isfinite(losses["loss"]):
        values = {name: value.item() for name, value in losses.items()}
        raise FloatingPointError(
            f"step {step + 1}: the loss is not finite ({values}); pictures {batch['picture_ids'].tolist()}. Lower "
            "learning_rate, or look at these rows. The last checkpoint is untouched."
        )
    accelerator.backward(losses["loss"])
    accelerator.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], recipe.max_grad_norm)
    optimizer.step()
    return losses


class Log:
    """One JSON object a line. A resumed run drops the lines of steps that it does again.

    Args:
        path: the file.
        is_main: only the main process writes.
        keep: steps whose lines stay.
    """

    def __init__(self, path: Path, is_main: bool, keep: int):
        self.path, self.is_main = path, is_main
        if is_main:
            kept = (
                [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= keep]
                if keep and path.exists()
                else []
            )
            path.write_text("".join(f"{line}\n" for line in kept))

    def write(self, entry: dict[str, Any]):
        """Append one line."""
        if self.is_main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": round(time.time(), 3)} | entry, ensure_ascii=False) + "\n")
