"""The one training loop: step, evaluate, save, resume. It knows optimizer and Accelerator, and no loss by name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, gather_object
from torch import Tensor

from modeling_dcclip import DCCLIPModel
from training.config import TrainingRecipe
from training.data import Loader, Order, Pairs, make_loader
from training.engine import checkpoint
from training.engine.checkpoint import FinishedModel
from training.engine.distributed import adapt_to_cluster, load_on_every_process, memory_format
from training.engine.distributed.zero import hold_scalars
from training.engine.log import LOG_FILE, Log, require_trackers
from training.engine.optimizer import Average, learning_rate_at, make_optimizer
from training.engine.state import Progress, TrainingState, load_weights
from training.tasks import Task
from training.tasks.grad_cache import cached_pass, sync_on_last, whole_pass
from training.utils.rng import keyed_uniform

# processes wait for the main one while it saves, evaluates or uploads
PATIENCE = timedelta(hours=3)

Evaluate = Callable[[DCCLIPModel], dict[str, float]]  # a model in eval mode -> metrics, of which more is better
OnSave = Callable[[Path], None]  # a folder that has just been finished


@dataclass(frozen=True)
class TrainingResult:
    """What a run reports.

    Args:
        steps: optimizer steps done in all.
        seconds: wall time of this run's steps.
        images_per_s: over this run.
        skipped: samples left out, by cause, in words.
    """

    steps: int
    seconds: float
    images_per_s: float
    skipped: str


def make_accelerator(recipe: TrainingRecipe) -> Accelerator:
    """The Accelerator of a stage. A backbone may bring layers behind its map, which no loss reaches; several
    processes must not wait for their gradients.

    Raises:
        ValueError: a tracker of the recipe is not installed.
    """
    require_trackers(recipe.trackers)
    load_on_every_process()
    return Accelerator(
        mixed_precision=recipe.mixed_precision,
        step_scheduler_with_optimizer=False,
        log_with=list(recipe.trackers) or None,
        project_dir=str(Path(recipe.output_dir) / checkpoint.TRACKING_FOLDER),
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )


def train(
    task: Task,
    dataset: Pairs,
    finished: FinishedModel,
    accelerator: Accelerator,
    description: str,
    evaluate: Evaluate | None = None,
    on_save: OnSave | None = None,
) -> TrainingResult:
    """Train to the recipe's last step and leave the finished Hub folder in `output_dir`.

    Args:
        task: what is learnt.
        dataset: from what.
        finished: what a checkpoint consists of.
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
    recipe = finished.recipe
    output_dir = Path(recipe.output_dir)
    if not recipe.resume and (found := checkpoint.list_checkpoints(output_dir)):
        raise ValueError(
            f"output_dir: {output_dir} holds {found[-1].name} of another run. Give --resume, or another folder."
        )
    if accelerator.is_main_process:
        checkpoint.settle(output_dir)
    accelerator.wait_for_everyone()
    run = _Run(task, finished, accelerator, evaluate, on_save)
    start = run.progress.step
    log = Log(output_dir / LOG_FILE, description, recipe, start, accelerator)
    task.train()
    loader = _make_loader(task, dataset, recipe, accelerator, run.progress)
    with log:
        for number, batch in _batches(loader, recipe, accelerator, start * recipe.accumulate_steps):
            step, part = divmod(number, recipe.accumulate_steps)
            losses = run.learn(batch, step, part)
            log.num_images += len(batch["rows"]) * accelerator.num_processes
            batch.clear()  # before the next one is made: pixels are what a large batch costs
            if part + 1 < recipe.accumulate_steps:
                continue
            run.step(step)
            log.step(step, losses)
            if evaluate is not None and recipe.eval_every and _is_due(step + 1, recipe.eval_every, recipe):
                run.evaluate(log)
            if recipe.save_every and (step + 1) % recipe.save_every == 0:
                run.save(loader)
    run.finish()
    dataset.skipped.merge(gather_object([dataset.skipped.state()]))  # what the other processes met
    result = TrainingResult(recipe.max_steps, log.seconds, log.rate, str(dataset.skipped))
    log.write(
        {"event": "finished", "step": result.steps, "seconds": round(result.seconds, 1), "skipped": result.skipped}
    )
    return result


def _is_due(step: int, every: int, recipe: TrainingRecipe) -> bool:
    return step % every == 0 or step == recipe.max_steps


def _make_loader(
    task: Task, dataset: Pairs, recipe: TrainingRecipe, accelerator: Accelerator, progress: Progress
) -> Loader:
    """This process's part of the batches that are still to come; a step takes `accumulate_steps` of them."""
    order = Order(
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        num_views=task.num_views,
        start=progress.step * recipe.accumulate_steps,
        stop=recipe.max_steps * recipe.accumulate_steps,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    return make_loader(dataset, order, progress.data)


def _batches(
    loader: Loader, recipe: TrainingRecipe, accelerator: Accelerator, start: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Numbers of batches and the batches, on the device; torch's own randomness (dropout) is keyed to the number."""
    for number, batch in enumerate(loader, start=start):
        torch.manual_seed(int(keyed_uniform(recipe.seed, number, accelerator.process_index, num=1)[0, 0] * 2**53))
        moved = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        batch.clear()
        yield number, moved


class _Run:
    """All that moves while a run goes on: weights, optimizer, average, progress.

    Args:
        task, finished, accelerator, evaluate, on_save: as `train` takes them.
    """

    def __init__(
        self,
        task: Task,
        finished: FinishedModel,
        accelerator: Accelerator,
        evaluate: Evaluate | None,
        on_save: OnSave | None,
    ):
        self.task, self.finished, self.accelerator = task, finished, accelerator
        self.measure, self.on_save, self.recipe = evaluate, on_save, finished.recipe
        folder = checkpoint.last_checkpoint(self.recipe.output_dir) if self.recipe.resume else None
        if folder is not None:
            load_weights(folder, task)
        task.to(accelerator.device, memory_format=memory_format(accelerator))
        if self.recipe.torch_compile:
            for tower in (task.student.vision_model, task.student.text_model):
                tower.compile()
        adapt_to_cluster(accelerator, task, self.recipe)
        self.model, self.optimizer = accelerator.prepare(task, make_optimizer(task, self.recipe))
        average = Average(task.student, self.recipe.ema_decay) if self.recipe.ema_decay else None
        self.state = TrainingState(task, self.optimizer, average, accelerator)
        self.progress = self.state.load(folder) if folder is not None else Progress()
        self.losses: dict[str, Tensor] = {}

    def learn(self, batch: dict[str, Any], step: int, part: int) -> dict[str, Tensor]:
        """Add the gradients of part number `part` of a step; the losses are the mean over the parts until now."""
        parts = self.recipe.accumulate_steps
        if part == 0:
            self.optimizer.zero_grad()
        forward = cached_pass if 0 < self.task.chunk_size < len(batch["rows"]) else whole_pass
        with sync_on_last(self.accelerator, self.model, part + 1 == parts):
            losses, backward = forward(self.model, self.task, batch, self.accelerator, 1 / parts)
            if not torch.isfinite(losses["loss"]):
                values = {name: value.item() for name, value in losses.items()}
                raise FloatingPointError(
                    f"step {step + 1}: the loss is not finite ({values}); rows {batch['rows'].tolist()}. Lower "
                    "learning_rate, or look at these rows. The last checkpoint is untouched."
                )
            if part + 1 == parts:  # DeepSpeed steps within the last backward pass
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate_at(step, self.recipe)
            backward()
        before = self.losses if part else {}
        self.losses = {
            name: (before.get(name, 0) * part + value.detach()) / (part + 1) for name, value in losses.items()
        }
        return self.losses

    def step(self, step: int):
        """One optimizer step, with the gradients of all parts."""
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.max_grad_norm)
        self.optimizer.step()
        self.task.after_step()
        hold_scalars(self.optimizer, self.task)
        if self.state.average is not None:
            self.state.average.update(self.task.student, step)
        self.progress = replace(self.progress, step=step + 1)

    def evaluate(self, log: Log):
        """Measure the student that would be exported, say so in the log, and keep it if none was better."""
        exported = self._exported()
        if exported is None or self.measure is None:
            return
        name = self.recipe.best_metric
        metrics = self.measure(exported.student.eval())
        self.task.train()
        if name not in metrics:
            raise ValueError(f"best_metric: {name!r} is not measured, only {sorted(metrics)}. Name one of these.")
        is_best = self.progress.best is None or metrics[name] > self.progress.best
        log.evaluated(self.progress.step, metrics, is_best)
        if is_best:
            checkpoint.save_best(exported)
            self.progress = replace(self.progress, best=metrics[name], best_step=self.progress.step)

    def _exported(self) -> FinishedModel | None:
        """What would be the finished model now; None where another process is the main one."""
        weights = self.state.exported_weights()
        return self.finished.with_weights(weights) if self.accelerator.is_main_process else None

    def save(self, loader: Loader):
        """A checkpoint, and where each process's loader is."""
        self.progress = replace(self.progress, data=gather_object([loader.state()]))
        folder = checkpoint.save_checkpoint(self.finished, self.progress, self.state)
        self._tell(folder)

    def finish(self):
        """The finished model."""
        exported = self._exported()
        if exported is not None:
            self.task.eval()
            checkpoint.save_final(exported)
        self._tell(Path(self.recipe.output_dir))

    def _tell(self, folder: Path):
        if self.on_save is not None and self.accelerator.is_main_process:
            self.on_save(folder)
