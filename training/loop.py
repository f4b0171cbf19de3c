"""The one training loop: step, log, save, resume. It knows optimizer and Accelerator, and no loss by name."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor
from tqdm.auto import tqdm

from modeling_dcclip import DCCLIPModel
from training import checkpoint
from training.checkpoint import Artefact, Progress
from training.config import TrainingRecipe
from training.data import Loader, Order, Pairs, make_loader
from training.gather import cached_pass, whole_pass
from training.tasks import Task
from training.transforms import keyed_uniform

LOG_FILE = "log.jsonl"

Evaluate = Callable[[DCCLIPModel], dict[str, float]]  # a model in eval mode -> metrics, of which more is better
OnSave = Callable[[Path], None]  # a folder that has just been finished


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


def make_accelerator(recipe: TrainingRecipe) -> Accelerator:
    """The Accelerator of a stage. A backbone may bring layers behind its map, which no loss reaches; several
    processes must not wait for their gradients.
    """
    return Accelerator(
        mixed_precision=recipe.mixed_precision,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


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
    dataset: Pairs,
    artefact: Artefact,
    accelerator: Accelerator,
    description: str,
    evaluate: Evaluate | None = None,
    on_save: OnSave | None = None,
) -> TrainingResult:
    """Train to the recipe's last step and leave the finished Hub folder in `output_dir`.

    Args:
        task: what is learnt.
        dataset: from what.
        artefact: what a checkpoint consists of.
        accelerator: of this process.
        description: shown before the progress bar.
        evaluate: measures the student, every `eval_every` steps and after the last; the best student by
            `best_metric` is kept in `output_dir/best`. It runs on the main process.
        on_save: told of every finished folder, each checkpoint and at the end `output_dir` itself. It runs on the main
            process, and the others wait.

    Raises:
        ValueError: `output_dir` holds checkpoints, and the recipe does not resume; or `evaluate` does not measure
            `best_metric`.
        FloatingPointError: the loss is no longer finite; the message names step and rows.
    """
    recipe = artefact.recipe
    output_dir = Path(recipe.output_dir)
    if not recipe.resume and (found := checkpoint.list_checkpoints(output_dir)):
        raise ValueError(
            f"output_dir: {output_dir} holds {found[-1].name} of another run. Give --resume, or another folder."
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    task.to(accelerator.device, memory_format=torch.channels_last)
    optimizer = make_optimizer(task, recipe)
    progress = checkpoint.resume(output_dir, task, optimizer) if recipe.resume else Progress()
    start = progress.step
    model, optimizer = accelerator.prepare(task, optimizer)
    log = Log(output_dir / LOG_FILE, description, recipe, start, accelerator.is_main_process)
    task.train()
    loader = _make_loader(task, dataset, recipe, accelerator, progress)
    with log:
        for step, batch in _batches(loader, recipe, accelerator, start):
            losses = _step(model, task, batch, optimizer, accelerator, step, recipe)
            task.after_step()
            log.step(step, len(batch["rows"]) * accelerator.num_processes, losses)
            progress = replace(progress, step=step + 1)
            saves = recipe.save_every > 0 and (step + 1) % recipe.save_every == 0
            if saves:
                progress = replace(progress, data=gather_object([loader.state()]))
            if not accelerator.is_main_process:
                continue
            if evaluate is not None and _is_due(step + 1, recipe.eval_every, recipe):
                progress = _evaluate(evaluate, task, artefact, progress, log)
            if saves:
                folder = checkpoint.save_checkpoint(artefact, progress, task, optimizer)
                if on_save is not None:
                    on_save(folder)
    if accelerator.is_main_process:
        task.eval()
        checkpoint.save_final(artefact)
        if on_save is not None:
            on_save(output_dir)
    dataset.skipped.merge(gather_object([dataset.skipped.state()]))  # what the other processes met
    result = TrainingResult(recipe.max_steps, log.seconds, log.rate, str(dataset.skipped))
    log.write(
        {"event": "finished", "step": result.steps, "seconds": round(result.seconds, 1), "skipped": result.skipped}
    )
    return result


def _is_due(step: int, every: int, recipe: TrainingRecipe) -> bool:
    return every > 0 and (step % every == 0 or step == recipe.max_steps)


def _evaluate(evaluate: Evaluate, task: Task, artefact: Artefact, progress: Progress, log: "Log") -> Progress:
    """Measure the student, say so in the log, and keep it if none was better."""
    name = artefact.recipe.best_metric
    task.eval()
    metrics = evaluate(task.student)
    task.train()
    if name not in metrics:
        raise ValueError(f"best_metric: {name!r} is not measured, only {sorted(metrics)}. Name one of these.")
    is_best = progress.best is None or metrics[name] > progress.best
    log.write(
        {"event": "evaluated", "step": progress.step, "best": is_best}
        | {key: round(value, 5) for key, value in metrics.items()}
    )
    if not is_best:
        return progress
    checkpoint.save_best(artefact)
    return replace(progress, best=metrics[name], best_step=progress.step)


def _make_loader(
    task: Task, dataset: Pairs, recipe: TrainingRecipe, accelerator: Accelerator, progress: Progress
) -> Loader:
    """This process's part of the batches that are still to come."""
    order = Order(
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        num_views=task.num_views,
        start=progress.step,
        stop=recipe.max_steps,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    return make_loader(dataset, order, progress.data)


def _batches(
    loader: Loader, recipe: TrainingRecipe, accelerator: Accelerator, start: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Steps and their batches, on the device; torch's own randomness (dropout) is keyed to the step."""
    for step, batch in enumerate(loader, start=start):
        torch.manual_seed(int(keyed_uniform(recipe.seed, step, accelerator.process_index, num=1)[0, 0] * 2**53))
        yield step, {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}


def _step(
    model: torch.nn.Module,
    task: Task,
    batch: dict[str, Any],
    optimizer,
    accelerator: Accelerator,
    step: int,
    recipe: TrainingRecipe,
) -> dict[str, Tensor]:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, recipe)
    optimizer.zero_grad()
    forward = cached_pass if 0 < task.chunk_size < len(batch["rows"]) else whole_pass
    losses, backward = forward(model, task, batch, accelerator)
    if not torch.isfinite(losses["loss"]):
        values = {name: value.item() for name, value in losses.items()}
        raise FloatingPointError(
            f"step {step + 1}: the loss is not finite ({values}); rows {batch['rows'].tolist()}. Lower "
            "learning_rate, or look at these rows. The last checkpoint is untouched."
        )
    backward()
    accelerator.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], recipe.max_grad_norm)
    optimizer.step()
    return losses


class Log:
    """A progress bar, and one JSON object a line. A resumed run drops the lines of steps that it does again.

    Args:
        path: the file.
        description: shown before the bar.
        recipe: how often a line is written, and for how many steps.
        start: steps done before.
        is_main: only the main process writes.
    """

    def __init__(self, path: Path, description: str, recipe: TrainingRecipe, start: int, is_main: bool):
        self.path, self.recipe, self.is_main = path, recipe, is_main
        self.num_pictures, self.began, self.seconds = 0, time.perf_counter(), 0.0
        self.progress = tqdm(
            total=recipe.max_steps, initial=start, desc=description, unit="step", disable=not is_main, mininterval=1.0
        )
        if is_main:
            lines = path.read_text(encoding="utf-8").splitlines() if start and path.exists() else []
            kept = [line for line in lines if json.loads(line)["step"] <= start]
            path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self.write({"event": "resumed" if start else "started", "step": start})

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception):
        self.seconds = time.perf_counter() - self.began
        self.progress.close()

    @property
    def rate(self) -> float:
        """Pictures a second since the start of this run."""
        return self.num_pictures / max(self.seconds or time.perf_counter() - self.began, 1e-9)

    def step(self, step: int, num_pictures: int, losses: dict[str, Tensor]):
        """Count one step, and write its losses if it is its turn."""
        self.num_pictures += num_pictures
        done = step + 1
        if done % self.recipe.log_every == 0 or done == self.recipe.max_steps:
            values = {name: round(value.item(), 5) for name, value in losses.items()}
            rates = {"learning_rate": learning_rate_at(step, self.recipe), "pictures_per_s": round(self.rate, 1)}
            self.write({"step": done} | rates | values)
            self.progress.set_postfix_str(f"loss {values['loss']:.4f}, {self.rate:.0f} pictures/s", refresh=False)
        self.progress.update()

    def write(self, entry: dict[str, Any]):
        """Append one line."""
        if self.is_main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": round(time.time(), 3)} | entry, ensure_ascii=False) + "\n")
