"""Training state: optimizer, moving average and position of a run, saved as safetensors and JSON.

It holds no random-generator state: random numbers depend on seed, step and process only.
"""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from modeling_dcclip import DCCLIPModel
from training.config import TrainingRecipe, plain
from training.data import Pairs
from training.tasks import Task
from training.utils.keys import differences, digest_file, make_key

STATE_FOLDER = "training_state"
STATE_FILE, TENSORS_FILE = "state.json", "tensors.safetensors"


@dataclass(frozen=True)
class Progress:
    """Position of a run.

    Args:
        step: Number of optimizer steps done.
        best: Best top-1 accuracy so far; None before the first evaluation.
        data: Position of each process's data loader, as JSON.
    """

    step: int = 0
    best: float | None = None
    data: list[dict[str, Any]] = field(default_factory=list)


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
        self.identity = run_identity(recipe, dataset, processes, teacher)
        self.progress = Progress()
        if checkpoints:
            stored = check_checkpoint(checkpoints, self.identity)
            self.progress = Progress(**stored["progress"])
            # the model of a checkpoint has the average, and the names of some towers differ in the file
            student = type(task.student).from_pretrained(checkpoints[-1], dtype=torch.float32)
            task.student.load_state_dict(student.state_dict())
        self.average = Average(task.student, recipe.ema_decay) if recipe.ema_decay else None
        weights, moments = task.state_dict(), defaultdict[int, dict[str, Tensor]](dict)
        if checkpoints:
            tensors = load_file(checkpoints[-1] / STATE_FOLDER / TENSORS_FILE)
            for name, tensor in tensors.items():
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

    def exported_model(self, keep: bool = False) -> DCCLIPModel:
        """The student with the average of its weights, if there is one.

        Args:
            keep: Whether to return a copy on the CPU, which later steps do not change, in any case.
        """
        student = self.task.student
        average = {} if self.average is None else self.average.tensors
        if not average and not keep:
            return student
        copy = type(student)(student.config)
        weights = student.state_dict() | average
        copy.load_state_dict({name: tensor.cpu() for name, tensor in weights.items()})
        return copy

    def snapshot(self) -> "Snapshot":
        """Copy the state to the memory of the host, so that it can be written while training goes on."""
        tensors = {
            f"task/{name}": tensor
            for name, tensor in self.task.state_dict().items()
            if self.average is not None or not name.startswith("student.")
        }
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{key}": tensor for key, tensor in moments.items()}
        layout = torch.contiguous_format
        scaler = self.accelerator.scaler
        return Snapshot(
            tensors={
                name: tensor.detach().to("cpu", copy=True, memory_format=layout)
                for name, tensor in tensors.items()
            },
            progress=self.progress,
            scaler=scaler.state_dict() if scaler is not None else None,
            identity=self.identity,
        )


@dataclass(frozen=True)
class Snapshot:
    """State of a run after a step, in the memory of the host.

    Args:
        tensors: Weights and moments of the optimizer, by their names in the file.
        progress: Position of the run.
        scaler: State of the gradient scaler; None without one.
        identity: What the weights of the run depend on, as `run_identity` returns it.
    """

    tensors: dict[str, Tensor]
    progress: Progress
    scaler: dict[str, Any] | None
    identity: dict[str, Any]

    def save(self, folder: Path):
        """Write the state to a new folder of a checkpoint, after its model."""
        folder.mkdir()
        save_file(self.tensors, folder / TENSORS_FILE)
        state = {
            "progress": asdict(self.progress),
            "scaler": self.scaler,
            "identity": self.identity,
            "digests": {
                str(path.relative_to(folder.parent)): digest_file(path)
                for path in sorted(folder.parent.rglob("*.safetensors"))
            },
        }
        (folder / STATE_FILE).write_text(json.dumps(state, indent=1), encoding="utf-8")


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


def run_identity(
    recipe: TrainingRecipe, dataset: Pairs, num_processes: int, teacher: str | None = None
) -> dict[str, Any]:
    """Everything that the weights of a run depend on, as JSON values by name; `teacher` is its revision."""
    values = make_key(recipe)
    if recipe.schedule == "constant":  # no step depends on it, so a run may go on for longer
        del values["max_steps"]
    values |= {"number of processes": num_processes, "content of the data": dataset.identity()}
    if teacher is not None:
        values["weights of the teacher"] = teacher
    return plain(values)


def check_checkpoint(checkpoints: Sequence[Path], identity: dict[str, Any]) -> dict[str, Any]:
    """Check that the last checkpoint is whole and belongs to the run of this identity, and return its state.

    Raises:
        ValueError: A file is damaged or missing, or the run differs. The message names the file or each difference.
    """
    *earlier, checkpoint = checkpoints
    file = checkpoint / STATE_FOLDER / STATE_FILE
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        Progress(**state["progress"])
        changes = differences(state["identity"], identity)
        for name, digest in state["digests"].items():
            file = checkpoint / name
            if digest_file(file) != digest:
                raise ValueError("checksum mismatch")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        remedy = "It is the only checkpoint: start again with --overwrite."
        if earlier:
            remedy = f"Remove {checkpoint} to continue from {earlier[-1].name}."
        raise ValueError(
            f"resume: {file} is damaged ({type(error).__name__}: {error}). {remedy}"
        ) from error
    if changes:
        raise ValueError(
            f"resume: this run differs from the one that wrote {checkpoint} in {'; '.join(changes)}. "
            "Use the options of that run, choose another output_dir, or start again with --overwrite."
        )
    return state
