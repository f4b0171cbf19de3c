"""Training loop of both stages: step, log, evaluate, save, resume. It knows no loss by name.

The state of a run holds no random-generator state: random numbers depend on seed, step and process only.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MethodType
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import TrainingRecipe
from training.data import BatchPlan, PairDataset, Pairs, make_loader
from training.data.batch import Batch
from training.engine import checkpoint
from training.engine.log import LOG_FILE, Log
from training.hub import save_model
from training.tasks import Task
from training.tasks.task import batches_on, forward_backward
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


def train(
    task: Task,
    dataset: Pairs,
    processor: DCCLIPProcessor,
    run: Run,
    evaluate: Evaluate | None = None,
) -> Log:
    """Train to the last step of the recipe, and write the finished Hub folder.

    Args:
        task: Task to train: student, teacher targets and losses.
        dataset: Training data.
        processor: Processor of the student, which is saved with it.
        run: The run.
        evaluate: Evaluation every `eval_every` steps, which all processes call; it returns the same metrics to all.
            The best student is kept in `output_dir/best`.

    Returns:
        The log, with the wall time and the throughput of the run.

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

    def write(folder: Path):
        model = state.exported_model()
        save_model(folder, model, saved_processor, recipe, run.earlier, state.progress.step)

    loader = make_loader(dataset, replace(plan, start=start), state.progress.data)
    num_rows = len(dataset) if isinstance(dataset, PairDataset) else None
    log = Log(output_dir / LOG_FILE, run.command, recipe, start, accelerator, num_rows)
    task.train()
    with log:
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
            if is_best and accelerator.is_main_process:
                checkpoint.save_best(output_dir, write)
            if saves and accelerator.is_main_process:
                checkpoint.save_checkpoint(recipe, write, state.tensors(), state.values())
    log.check()
    if accelerator.is_main_process:
        task.eval()
        checkpoint.save_final(output_dir, write)
    # the samples that other processes skipped
    dataset.skipped.merge(gather_object([dataset.skipped.state()]))
    entry = {
        "event": "finished",
        "step": step,
        "seconds": round(log.seconds, 1),
        "data_wait": round(log.data_wait, 3),
        "skipped": str(dataset.skipped),
    }
    log.write(entry)
    return log


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


# torch.distributed.checkpoint.state_dict does not fit: on loading it creates optimizer state for parameters that no
# loss reaches, so a resumed run would write different checkpoints than an unbroken one.
class TrainingState:
    """Task, optimizer, moving average and position of a run.

    Args:
        task: Task in training, on its device.
        recipe: Recipe of the run.
        accelerator: Accelerator of this process.
        dataset: Training data.
        checkpoints: Checkpoints of the run that is resumed, oldest first. Default: a new run.

    Raises:
        ValueError: The last checkpoint is damaged, or of a run that differs.
    """

    def __init__(
        self,
        task: Task,
        recipe: TrainingRecipe,
        accelerator: Accelerator,
        dataset: Pairs,
        checkpoints: Sequence[Path] = (),
    ):
        self.task, self.recipe, self.accelerator = task, recipe, accelerator
        processes, teacher = accelerator.num_processes, task.teacher_revision
        self.identity = checkpoint.run_identity(recipe, dataset, processes, teacher)
        self.progress = checkpoint.Progress()
        if checkpoints:
            stored = checkpoint.check_checkpoint(checkpoints, self.identity)
            self.progress = checkpoint.Progress(**stored["progress"])
            # the model of a checkpoint has the average, and the names of some towers differ in the file
            student = type(task.student).from_pretrained(checkpoints[-1], dtype=torch.float32)
            task.student.load_state_dict(student.state_dict())
        self.average = Average(task.student, recipe.ema_decay) if recipe.ema_decay else None
        weights, moments = task.state_dict(), defaultdict[int, dict[str, Tensor]](dict)
        if checkpoints:
            folder = checkpoints[-1] / checkpoint.STATE_FOLDER
            for name, tensor in load_file(folder / checkpoint.TENSORS_FILE).items():
                kind, rest = name.split("/", 1)
                if kind == "task":
                    weights[rest] = tensor
                else:
                    number, key = rest.split("/")
                    moments[int(number)][key] = tensor
            task.load_state_dict(weights)
        self.model, self.optimizer = accelerator.prepare(task, make_optimizer(task, recipe))
        if checkpoints:
            self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
            if accelerator.scaler is not None and stored["scaler"]:
                accelerator.scaler.load_state_dict(stored["scaler"])

    def update(self) -> float:
        """Run an optimizer step with the gradients of a batch, and return its learning rate."""
        learning_rate = learning_rate_at(self.progress.step, self.recipe)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.task.after_step()
        if self.average is not None:
            self.average.update(self.task.student, self.progress.step)
        self.progress = replace(self.progress, step=self.progress.step + 1)
        return learning_rate

    def exported_model(self) -> DCCLIPModel:
        """The student, or a copy with the average of its weights."""
        student = self.task.student
        if self.average is None:
            return student
        copy = type(student)(student.config)
        weights = student.state_dict() | self.average.tensors
        copy.load_state_dict({name: tensor.cpu() for name, tensor in weights.items()})
        return copy

    def tensors(self) -> dict[str, Tensor]:
        """Copies on the host of what the model of a checkpoint lacks: weights and moments of the optimizer."""
        tensors = {
            f"task/{name}": tensor
            for name, tensor in self.task.state_dict().items()
            if self.average is not None or not name.startswith("student.")
        }
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{key}": tensor for key, tensor in moments.items()}
        layout = torch.contiguous_format
        return {
            name: tensor.detach().to("cpu", copy=True, memory_format=layout)
            for name, tensor in tensors.items()
        }

    def values(self) -> dict[str, Any]:
        """Progress, state of the gradient scaler, and identity of the run, as JSON values."""
        scaler = self.accelerator.scaler
        return {
            "progress": asdict(self.progress),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "identity": self.identity,
        }


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


def make_optimizer(task: nn.Module, recipe: TrainingRecipe) -> torch.optim.AdamW:
    """Make AdamW over the trainable parameters. Biases, norms and the logit scale have no weight decay."""
    parameters = [parameter for parameter in task.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    is_on_gpu = any(parameter.is_cuda for parameter in parameters)
    return torch.optim.AdamW(
        groups, lr=recipe.learning_rate, betas=recipe.betas, fused=is_on_gpu or None
    )


# torch's AveragedModel and timm's ModelEmaV3 do not fit: both deep-copy the whole student including frozen layers and
# buffers, need a counter of their own in the checkpoint, and start with another decay than the `update` below.
class Average:
    """Exponential moving average of a student's trainable weights, which is exported instead of the weights.

    Args:
        student: Model with the initial weights.
        decay: Share of the old average that a step keeps, 0..1. In the first steps it is smaller, so that the average
            soon forgets the initial weights.
    """

    def __init__(self, student: nn.Module, decay: float):
        self.decay = decay
        self.tensors: dict[str, Tensor] = {
            name: parameter.detach().clone()
            for name, parameter in student.named_parameters()
            if parameter.requires_grad
        }

    def update(self, student: nn.Module, step: int):
        """Include the weights after a step, numbered from 0."""
        parameters = dict(student.named_parameters())
        weights: list[Tensor] = [parameters[name].detach() for name in self.tensors]
        update_average = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        update_average(list(self.tensors.values()), weights, step)
