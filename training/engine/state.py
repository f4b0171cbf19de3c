"""Training state: everything that a resumed run needs besides the exported model, as safetensors and JSON.

It holds no random-generator state: random numbers depend on seed, step and process only.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.config import TrainingRecipe, plain
from training.data import Pairs
from training.engine.optimizer import Average, make_optimizer
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
        identity: What the run is, as `run_identity` returns it.
        checkpoints: Checkpoints of the run that is resumed, oldest first. Default: a new run.

    Raises:
        ValueError: The last checkpoint is damaged, or of a run that differs.
    """

    def __init__(
        self,
        task: Task,
        recipe: TrainingRecipe,
        accelerator: Accelerator,
        identity: dict[str, Any],
        checkpoints: Sequence[Path] = (),
    ):
        self.task, self.accelerator, self.identity = task, accelerator, identity
        self.progress = Progress()
        if checkpoints:
            stored = check_checkpoint(checkpoints, identity)
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

    def update(self, learning_rate: float, max_grad_norm: float):
        """Run an optimizer step with the gradients of a batch."""
        self.accelerator.clip_grad_norm_(self.model.parameters(), max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.task.after_step()
        if self.average is not None:
            self.average.update(self.task.student, self.progress.step)
        self.progress = replace(self.progress, step=self.progress.step + 1)

    def exported_weights(self) -> dict[str, Tensor] | None:
        """Weights of the exported model, on the CPU, by name; None if they are the student's own."""
        if self.average is None:
            return None
        return _on_cpu(self.task.student.state_dict() | self.average.tensors)

    def save(self, folder: Path):
        """Write the state to a new folder of a checkpoint, after its model."""
        folder.mkdir(parents=True)
        tensors = {
            f"task/{name}": tensor
            for name, tensor in self.task.state_dict().items()
            if self.average is not None or not name.startswith("student.")
        }
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{key}": tensor for key, tensor in moments.items()}
        save_file(_on_cpu(tensors), folder / TENSORS_FILE)
        scaler = self.accelerator.scaler
        state = {
            "progress": asdict(self.progress),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "identity": self.identity,
            "digests": {
                str(path.relative_to(folder.parent)): digest_file(path)
                for path in sorted(folder.parent.rglob("*.safetensors"))
            },
        }
        (folder / STATE_FILE).write_text(json.dumps(state, indent=1), encoding="utf-8")


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


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
