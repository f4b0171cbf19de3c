"""Training loop of both stages: step, log, evaluate, save, resume. It knows no loss by name."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Generic, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import TrainingRecipe
from training.data import BatchPlan, PairDataset, Pairs, make_loader
from training.data.batch import Batch
from training.engine import checkpoint
from training.engine.log import LOG_FILE, Log
from training.engine.standstill import name_standstill
from training.engine.state import TrainingState
from training.hub import save_model
from training.tasks import Task
from training.tasks.spread import batches_on, forward_backward
from training.utils.keys import keyed_uniform
from training.utils.process import at_own_pace

# model in eval mode -> metrics, higher is better
Evaluate = Callable[[DCCLIPModel], dict[str, float]]
BEST = "top1"  # the metric that selects the best student
Recipe = TypeVar("Recipe", bound=TrainingRecipe)


@dataclass(frozen=True)
class Run(Generic[Recipe]):
    """A run of a stage, as `open_run` in stage.py opens it.

    Args:
        recipe: Recipe of the run.
        accelerator: Accelerator of this process.
        command: Name of the command, such as `distill`, which is also in front of the progress bar.
        checkpoints: Checkpoints of the run that is resumed, oldest first. Default: a new run.
        earlier: Texts of the recipes of earlier runs that the student comes from.
    """

    recipe: Recipe
    accelerator: Accelerator
    command: str
    checkpoints: Sequence[Path] = ()
    earlier: Sequence[str] = ()


@dataclass(frozen=True)
class TrainingResult:
    """Summary of a run.

    Args:
        seconds: Wall time of the steps of this process.
        images_per_s: Mean throughput of this process's part of the run, over all processes.
        data_wait: Share of this time in which the loop waited for the loader, 0..1.
        skipped: Number of skipped samples by cause, as text.
    """

    seconds: float
    images_per_s: float
    data_wait: float
    skipped: str


def train(
    task: Task,
    dataset: Pairs,
    processor: DCCLIPProcessor,
    run: Run,
    evaluate: Evaluate | None = None,
) -> TrainingResult:
    """Train to the last step of the recipe, and write the finished Hub folder.

    Args:
        task: Task to train: student, teacher targets and losses.
        dataset: Training data.
        processor: Processor of the student, which is saved with it.
        run: The run.
        evaluate: Evaluation every `eval_every` steps, which all processes call; it returns the same metrics to all.
            The best student is kept in `output_dir/best`.

    Returns:
        Summary of the run.

    Raises:
        ValueError: The checkpoint to resume from is damaged, or of a run that differs.
        FloatingPointError: The loss is not finite; the message names the step and the rows.
        OSError: A checkpoint or the finished model cannot be saved.
    """
    recipe = run.recipe
    accelerator = run.accelerator
    # torch's type stubs lack the documented argument memory_format
    task.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
        keep_depthwise_in_float32(task.student)
    plan = BatchPlan(
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        num_views=task.num_views,
        augment=task.augment,
        read_targets=task.targets.read if task.targets is not None else None,
        start=0,
        stop=recipe.max_steps,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    if accelerator.num_processes > 1:
        # which losses reach a parameter depends on no row, and in eval mode nothing is checkpointed
        first = replace(plan, stop=1, batch_size=min(2, task.chunk_size or recipe.batch_size))
        batch = next(batches_on(make_loader(dataset, first), accelerator.device))
        with accelerator.autocast():
            freeze_unreached(task, task.augmented(batch))
    if recipe.torch_compile:
        for tower in (task.student.vision_model, task.student.text_model):
            tower.compile()
    state = TrainingState(task, recipe, accelerator, dataset, run.checkpoints)
    start = step = state.progress.step
    if start > recipe.max_steps:
        raise ValueError(
            f"resume: {run.checkpoints[-1]} is beyond max_steps, which is {recipe.max_steps}. Raise it, or choose "
            "another output_dir."
        )
    output_dir = Path(recipe.output_dir)
    # saving resets the tokenizer, which the loader may be using
    saved_processor = deepcopy(processor)

    def write_files(model: DCCLIPModel) -> checkpoint.Write:
        return partial(
            save_model,
            student=model,
            processor=saved_processor,
            recipe=recipe,
            earlier=run.earlier,
            num_steps=state.progress.step,
        )

    loader = make_loader(dataset, replace(plan, start=start), state.progress.data)
    num_rows = len(dataset) if isinstance(dataset, PairDataset) else None
    log = Log(output_dir / LOG_FILE, run.command, recipe, start, accelerator, num_rows)
    task.train()
    standstill = name_standstill(f"{run.command}, {output_dir}", lambda: state.progress.step)
    with log, standstill, checkpoint.Background() as saving:
        for batch in batches_on(log.timed(loader), accelerator.device):
            # torch's generator (dropout) is seeded by the number of each step
            seed = keyed_uniform(recipe.seed, step, accelerator.process_index, num=1)[0, 0]
            torch.manual_seed(int(seed * 2**53))
            task.before_batch(step)
            state.optimizer.zero_grad()
            losses = forward_backward(state.model, task, task.augmented(batch), accelerator)
            rows = batch["rows"].tolist()
            del batch  # frees the pixels before the next batch is made
            log.step(step, losses, state.update(), rows)
            step += 1
            evaluates = recipe.eval_every and (
                step % recipe.eval_every == 0 or step == recipe.max_steps
            )
            saves = recipe.save_every and step % recipe.save_every == 0
            saving.check()
            if evaluates or saves:
                log.check()
            is_best = False
            if evaluate and evaluates:
                for norm in task.moving_norms:  # each process has the statistics of its own images
                    broadcast([*norm.buffers()])
                with at_own_pace():
                    # transformers wraps `to` in a decorator that hides its signature
                    model = state.exported_model().to(accelerator.device)  # type: ignore[arg-type]
                    metrics = evaluate(model.eval())
                    task.train()
                    is_best = state.progress.best is None or metrics[BEST] > state.progress.best
                    log.evaluated(step, metrics, is_best)
                    if is_best:
                        state.progress = replace(state.progress, best=metrics[BEST])
            if saves:
                positions = gather_object([loader.state()])
                state.progress = replace(state.progress, data=positions)
            if (is_best or saves) and accelerator.is_main_process:
                saving.wait()  # one copy of the state is in memory
                write = write_files(state.exported_model(keep=True))
                if is_best:
                    saving.submit(checkpoint.save_best, output_dir, write)
                if saves:
                    saving.submit(checkpoint.save_checkpoint, recipe, write, state.snapshot())
    log.check()
    if accelerator.is_main_process:
        task.eval()
        checkpoint.save_final(output_dir, write_files(state.exported_model()))
    # the samples that other processes skipped
    dataset.skipped.merge(gather_object([dataset.skipped.state()]))
    result = TrainingResult(log.seconds, log.images_per_s, log.data_wait, str(dataset.skipped))
    entry = {
        "event": "finished",
        "step": step,
        "seconds": round(result.seconds, 1),
        "data_wait": round(result.data_wait, 3),
        "skipped": result.skipped,
    }
    log.write(entry)
    return result


def freeze_unreached(task: Task, batch: Batch):
    """Freeze the parameters that no loss reaches, such as those of layers after a backbone's feature map.

    They would never change, and DistributedDataParallel would search for them in every step.

    Args:
        task: Task on the device of the batch.
        batch: Any batch of the data, with augmented images.
    """
    task.eval()  # leaves running statistics as they are
    learned = {
        name: parameter for name, parameter in task.named_parameters() if parameter.requires_grad
    }
    loss = task(batch)["loss"]
    gradients = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
    for parameter, gradient in zip(learned.values(), gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def keep_depthwise_in_float32(model: nn.Module):
    """Take depthwise convolutions out of autocast on a CPU.

    With torch 2.13, their bfloat16 gradients take 3 to 40 times as long as in float32 for strides of 2 and kernels of
    5, and a training step of EfficientNet-Lite2 1.4 times as long.
    """

    def forward(self: nn.Conv2d, images: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return type(self).forward(self, images.float()).bfloat16()

    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            # a bound method, so that copies of the model call their own
            module.forward = MethodType(forward, module)  # type: ignore[method-assign]
