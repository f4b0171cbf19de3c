"""Training state: everything that a resumed run needs besides the exported model, as safetensors and JSON.

It holds no random-generator state: random numbers depend on seed, step and process only.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.config import TrainingRecipe, plain
from training.data import Pairs
from training.engine.optimizer import Average
from training.tasks import Task
from training.utils.keys import differences, digest_file, make_key

STATE_FOLDER = "training_state"


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
@dataclass
class TrainingState:
    """Optimizer, moving average and task of a run, as they are saved.

    Args:
        task: Task in training. Its parameters outside the student, such as adapters, are part of the state. With an
            average the student's own weights are, too, because the checkpoint's model has the average.
        optimizer: AdamW over the task's parameters.
        average: Moving average of the student, which is exported; None exports the weights.
        accelerator: Accelerator of this process. It holds the gradient scaler of fp16.
        identity: What the run is, as `run_identity` returns it.
    """

    task: Task
    optimizer: torch.optim.Optimizer
    average: Average | None
    accelerator: Accelerator
    identity: dict[str, Any]

    def exported_weights(self) -> dict[str, Tensor] | None:
        """Weights of the exported model, on the CPU, by name; None if they are the student's own."""
        if self.average is None:
            return None
        weights = self.task.student.state_dict() | self.average.tensors
        return {name: _on_cpu(tensor) for name, tensor in weights.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Tensors for `save`."""
        tensors = {
            f"task/{name}": _on_cpu(tensor)
            for name, tensor in self.task.state_dict().items()
            if self.average is not None or not name.startswith("student.")
        }
        for name, parameter in self.task.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = _on_cpu(value)
        return tensors

    def save(self, folder: Path, progress: Progress):
        """Write the state to a new folder of a checkpoint, after its model."""
        folder.mkdir(parents=True)
        save_file(self.tensors(), folder / "tensors.safetensors")
        scaler = self.accelerator.scaler
        state = {
            "progress": asdict(progress),
            "parameters": trainable_names(self.task),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "identity": self.identity,
            "digests": {
                str(path.relative_to(folder.parent)): digest_file(path)
                for path in sorted(folder.parent.rglob("*.safetensors"))
            },
        }
        (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")

    def load(self, checkpoint: Path) -> Progress:
        """Load the state of a checkpoint, after its weights (`load_weights`), and return the position of the run."""
        state, tensors = _read(checkpoint)
        _load_optimizer(self.optimizer, self.task, tensors)
        if self.average is not None:
            self.average.load(_load_student(checkpoint, self.task.student))
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        return Progress(**state["progress"])


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


def check_checkpoint(checkpoints: Sequence[Path], identity: dict[str, Any]):
    """Check that the last checkpoint is whole and belongs to the run of this identity, which resumes from it.

    Raises:
        ValueError: A file is damaged or missing, or the run differs. The message names the file or each difference.
    """
    *earlier, checkpoint = checkpoints
    remedy = "It is the only checkpoint: start again with --overwrite."
    if earlier:
        remedy = f"Remove {checkpoint} to continue from {earlier[-1].name}."
    file = checkpoint / STATE_FOLDER / "state.json"
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        before, digests = dict(state["identity"]), dict(state["digests"])
        Progress(**state["progress"])
        for name, digest in digests.items():
            file = checkpoint / name
            if digest_file(file) != digest:
                raise ValueError("checksum mismatch")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"resume: {file} is damaged ({type(error).__name__}: {error}). {remedy}"
        ) from error
    if changes := differences(before, identity):
        raise ValueError(
            f"resume: this run differs from the one that wrote {checkpoint} in {'; '.join(changes)}. "
            "Use the options of that run, choose another output_dir, or start again with --overwrite."
        )


def trainable_names(task: nn.Module) -> list[str]:
    """Names of the trainable parameters."""
    return [name for name, parameter in task.named_parameters() if parameter.requires_grad]


def load_weights(checkpoint: Path, task: Task):
    """Load the weights of a checkpoint into student and adapters, before the Accelerator wraps them.

    Raises:
        ValueError: The checkpoint belongs to a recipe that trains other parameters.
    """
    state, tensors = _read(checkpoint)
    task.student.load_state_dict(_load_student(checkpoint, task.student))
    task_tensors = {
        name.removeprefix("task/"): tensor
        for name, tensor in tensors.items()
        if name.startswith("task/")
    }
    keys = task.load_state_dict(task_tensors, strict=False)
    missing = [name for name in keys.missing_keys if not name.startswith("student.")]
    names = trainable_names(task)
    if missing or keys.unexpected_keys or sorted(names) != sorted(state["parameters"]):
        raise ValueError(
            f"resume: {checkpoint} does not have the trained parameters of this recipe ({len(state['parameters'])} "
            f"instead of {len(names)}). Resume with the recipe of that run, or choose another output_dir."
        )


def _read(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = checkpoint / STATE_FOLDER
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return state, load_file(folder / "tensors.safetensors")


def _load_student(checkpoint: Path, student: DCCLIPModel) -> dict[str, Tensor]:
    """Weights of a checkpoint by their names in memory, which for some towers differ from the stored names."""
    return type(student).from_pretrained(checkpoint, dtype=torch.float32).state_dict()


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _load_optimizer(optimizer: torch.optim.Optimizer, task: nn.Module, tensors: dict[str, Tensor]):
    """Load AdamW's moments and step counts. `Optimizer.load_state_dict` expects them by position."""
    names = {parameter: name for name, parameter in task.named_parameters()}
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for position, parameter in enumerate(parameters):
        suffix = f"/{names[parameter]}"
        state[position] = {
            key.removesuffix(suffix): value
            for key, value in tensors.items()
            if key.endswith(suffix) and key != f"task{suffix}"
        }
    optimizer.load_state_dict(
        optimizer.state_dict()
        | {"state": {position: moments for position, moments in state.items() if moments}}
    )
