"""Training loop of both stages: step, log, evaluate, save, resume. It knows no loss by name."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    gather_object,
)
from torch import Tensor

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import TrainingRecipe
from training.data import BatchPlan, Loader, Pairs, make_loader
from training.data.batch import Batch
from training.engine import checkpoint
from training.engine.log import LOG_FILE, Log, require_trackers
from training.engine.optimizer import Average, make_optimizer
from training.engine.state import (
    Progress,
    TrainingState,
    check_checkpoint,
    load_weights,
    run_identity,
)
from training.hub import save_model
from training.tasks import Task
from training.tasks.spread import forward_backward, sync_on_last, to_device
from training.utils.process import find_processes
from training.utils.rng import keyed_uniform

Evaluate = Callable[
    [DCCLIPModel], dict[str, float]
]  # model in eval mode -> metrics, higher is better
BEST = "top1"  # the metric that selects the best student


def learning_rate_at(step: int, recipe: TrainingRecipe) -> float:
    """Learning rate of a step: linear warm-up times a cosine decay to 0 over all steps, or times 1.

    Args:
        step: Number of the step, from 0. The rate depends on nothing else, so a resumed run has the same rates.
        recipe: Recipe with `learning_rate`, `warmup_steps`, `schedule` and `max_steps`.
    """
    warmup = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    if recipe.schedule == "constant":
        return recipe.learning_rate * warmup
    return recipe.learning_rate * warmup * (1 + math.cos(math.pi * step / recipe.max_steps)) / 2


@dataclass(frozen=True)
class TrainingResult:
    """Summary of a run.

    Args:
        steps: Number of optimizer steps done in all.
        seconds: Wall time of the steps of this process.
        images_per_s: Mean throughput of this process's part of the run, over all processes.
        skipped: Number of skipped samples by cause, as text.
    """

    steps: int
    seconds: float
    images_per_s: float
    skipped: str


def make_accelerator(recipe: TrainingRecipe) -> Accelerator:
    """Make the Accelerator of a stage.

    Raises:
        ValueError: A tracker of the recipe is not installed, or Accelerate would shard the student.
    """
    require_trackers(recipe.trackers)
    find_processes()  # Accelerator itself forms no group of processes on a CPU
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        step_scheduler_with_optimizer=False,
        log_with=list(recipe.trackers) or None,
        project_dir=str(Path(recipe.output_dir) / checkpoint.TRACKING_FOLDER),
        kwargs_handlers=[
            # some backbones have layers after their feature map, which no loss reaches
            DistributedDataParallelKwargs(find_unused_parameters=True),
        ],
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError(
            f"distributed_type: {accelerator.distributed_type.value} shards the student, which fits on every device. "
            "Use a config file of training/engine/distributed."
        )
    return accelerator


def train(
    task: Task,
    dataset: Pairs,
    recipe: TrainingRecipe,
    processor: DCCLIPProcessor,
    accelerator: Accelerator,
    description: str,
    evaluate: Evaluate | None = None,
    earlier: Sequence[str] = (),
) -> TrainingResult:
    """Train to the last step of the recipe, and write the finished Hub folder.

    Args:
        task: Task to train: student, teacher targets and losses.
        dataset: Training data.
        recipe: Recipe of the run.
        processor: Processor of the student, which is saved with it.
        accelerator: Accelerator of this process.
        description: Text in front of the progress bar.
        evaluate: Evaluation every `eval_every` steps, which runs on the main process. The best student is kept in
            `output_dir/best`.
        earlier: Texts of the recipes of earlier runs that the student comes from.

    Returns:
        Summary of the run.

    Raises:
        ValueError: The checkpoint to resume from is damaged, or of a run that differs.
        FloatingPointError: The loss is not finite; the message names the step and the rows.
        OSError: A checkpoint or the finished model cannot be saved.
    """
    identity = run_identity(recipe, dataset, accelerator.num_processes, task.teacher_revision)
    write = partial(
        save_model, student=task.student, processor=processor, recipe=recipe, earlier=tuple(earlier)
    )
    run = _Run(task, recipe, write, accelerator, evaluate, identity)
    start = run.progress.step
    log = Log(Path(recipe.output_dir) / LOG_FILE, description, recipe, start, accelerator)
    task.train()
    loader = _make_loader(task, dataset, recipe, accelerator, run.progress)
    with log:
        for number, batch in _batches(loader, recipe, accelerator, start * recipe.accumulate_steps):
            step, part = divmod(number, recipe.accumulate_steps)
            task.before_batch(number)
            losses = run.learn(task.augmented(batch), step, part)
            log.num_images += len(batch["rows"]) * accelerator.num_processes
            batch.pop("images", None)  # frees the pixels before the next batch is made
            if part + 1 == recipe.accumulate_steps:
                run.step(step)
                log.step(step, losses, learning_rate_at(step, recipe))
                run.evaluate_or_save(loader, log)
    run.finish()
    return _summarize(run, dataset, log)


def _summarize(run: "_Run", dataset: Pairs, log: Log) -> TrainingResult:
    """Summary of a finished run, which is also logged."""
    dataset.skipped.merge(
        gather_object([dataset.skipped.state()])
    )  # the samples that other processes skipped
    result = TrainingResult(run.progress.step, log.seconds, log.images_per_s, str(dataset.skipped))
    log.write(
        {
            "event": "finished",
            "step": result.steps,
            "seconds": round(result.seconds, 1),
            "skipped": result.skipped,
        }
    )
    return result


def _make_loader(
    task: Task, dataset: Pairs, recipe: TrainingRecipe, accelerator: Accelerator, progress: Progress
) -> Loader:
    """Loader of this process's share of the remaining batches, `accumulate_steps` per step."""
    order = BatchPlan(
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        num_views=task.num_views,
        augment=task.augment,
        read_targets=getattr(task.targets, "read", None),
        start=progress.step * recipe.accumulate_steps,
        stop=recipe.max_steps * recipe.accumulate_steps,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    return make_loader(dataset, order, progress.data)


def _batches(
    loader: Loader, recipe: TrainingRecipe, accelerator: Accelerator, start: int
) -> Iterator[tuple[int, Batch]]:
    """Numbered batches on the device. Torch's generator (dropout) is seeded by the number of each batch."""
    for number, batch in enumerate(loader, start=start):
        torch.manual_seed(
            int(keyed_uniform(recipe.seed, number, accelerator.process_index, num=1)[0, 0] * 2**53)
        )
        on_device = to_device(batch, accelerator.device)
        batch.pop("images", None)  # the loop holds the only reference to the pixels
        yield number, on_device


class _Run:
    """Changing state of a run: weights, optimizer, average and position.

    Args:
        task: Task to train.
        recipe: Recipe of the run.
        write: `save_model` with all but the folder, the number of steps and the weights.
        accelerator: Accelerator of this process.
        evaluate: Evaluation during training, or None.
        identity: What the run is, as `run_identity` returns it.
    """

    def __init__(
        self,
        task: Task,
        recipe: TrainingRecipe,
        write: Callable[..., None],
        accelerator: Accelerator,
        evaluate: Evaluate | None,
        identity: dict[str, Any],
    ):
        self.task, self.recipe, self.write = task, recipe, write
        self.accelerator, self.measure, self.output_dir = (
            accelerator,
            evaluate,
            Path(recipe.output_dir),
        )
        found = checkpoint.list_checkpoints(self.recipe.output_dir) if self.recipe.resume else []
        folder = found[-1] if found else None
        if folder is not None:
            previous = found[-2] if len(found) > 1 else None
            check_checkpoint(folder, previous, identity)
            load_weights(folder, task)
        # torch's type stubs lack the documented argument memory_format
        task.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.recipe.torch_compile:
            for tower in (task.student.vision_model, task.student.text_model):
                tower.compile()
        self.model, self.optimizer = accelerator.prepare(task, make_optimizer(task, self.recipe))
        average = Average(task.student, self.recipe.ema_decay) if self.recipe.ema_decay else None
        self.state = TrainingState(task, self.optimizer, average, accelerator, identity)
        self.progress = self.state.load(folder) if folder is not None else Progress()
        if self.progress.step > recipe.max_steps:
            raise ValueError(
                f"resume: {folder} is beyond max_steps, which is {recipe.max_steps}. Raise it, or choose another "
                "output_dir."
            )
        self.losses: dict[str, list[Tensor]] = {}  # of each batch of the current step

    def learn(self, batch: Batch, step: int, part: int) -> dict[str, Tensor]:
        """Add the gradients of one batch of a step.

        Args:
            batch: Batch on the device.
            step: Number of the step, from 0.
            part: Number of the batch within the step, from 0.

        Returns:
            Losses by name: the mean over the batches of this step so far that have the loss.
        """
        parts = self.recipe.accumulate_steps
        if part == 0:
            self.optimizer.zero_grad()
            self.losses = {}
        with sync_on_last(self.accelerator, self.model, part + 1 == parts):
            losses, backward = forward_backward(
                self.model, self.task, batch, self.accelerator, 1 / parts
            )
            if not torch.isfinite(losses["loss"]):
                values = {name: value.item() for name, value in losses.items()}
                raise FloatingPointError(
                    f"step {step + 1}: the loss is not finite ({values}); rows {batch['rows'].tolist()}. Lower "
                    "learning_rate, or check these rows. Checkpoints are intact."
                )
            backward()
        for name, value in losses.items():
            self.losses.setdefault(name, []).append(value.detach())
        return {name: torch.stack(values).mean() for name, values in self.losses.items()}

    def step(self, step: int):
        """Run an optimizer step with the gradients of all its batches."""
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self.recipe)
        self.optimizer.step()
        self.task.after_step()
        if self.state.average is not None:
            self.state.average.update(self.task.student, step)
        self.progress = replace(self.progress, step=step + 1)

    def evaluate_or_save(self, loader: Loader, log: Log):
        """Evaluate and save after a step, if the recipe schedules it."""
        recipe, step = self.recipe, self.progress.step
        if (
            self.measure
            and recipe.eval_every
            and (step % recipe.eval_every == 0 or step == recipe.max_steps)
        ):
            self.evaluate(self.measure, log)
        if recipe.save_every and step % recipe.save_every == 0:
            self.save(loader)

    def evaluate(self, measure: Evaluate, log: Log):
        """Measure the student that would be exported, log its metrics, and keep it if it is the best so far."""
        if not self.accelerator.is_main_process:
            return
        weights = self.state.exported_weights()
        metrics = measure(self._with_weights(weights).eval())
        self.task.train()
        is_best = self.progress.best is None or metrics[BEST] > self.progress.best
        log.evaluated(self.progress.step, metrics, is_best)
        if is_best:
            checkpoint.save_best(self.output_dir, self._writer(weights))
            self.progress = replace(self.progress, best=metrics[BEST])

    def _with_weights(self, weights: dict[str, Tensor] | None) -> DCCLIPModel:
        """The student, or a copy of it with other weights."""
        student = self.task.student
        if weights is None:
            return student
        copy = type(student)(student.config)
        copy.load_state_dict(weights)
        # transformers wraps `to` in a decorator that hides its signature
        return copy.to(student.device)  # type: ignore[arg-type]

    def _writer(self, weights: dict[str, Tensor] | None) -> checkpoint.Write:
        """Function that writes the model at this step, with these weights or its own, to a folder."""
        return partial(self.write, num_steps=self.progress.step, weights=weights)

    def save(self, loader: Loader):
        """Save a checkpoint, including the position of every process's loader."""
        self.progress = replace(self.progress, data=gather_object([loader.state()]))
        if self.accelerator.is_main_process:
            weights = self.state.exported_weights()
            checkpoint.save_checkpoint(
                self.recipe, self._writer(weights), self.progress, self.state
            )

    def finish(self):
        """Save the finished model."""
        if self.accelerator.is_main_process:
            weights = self.state.exported_weights()
            self.task.eval()
            checkpoint.save_final(self.output_dir, self._writer(weights))
