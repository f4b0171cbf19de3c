"""The training state: all that a resumed run needs beside the exported model, as safetensors and JSON.

Randomness is keyed by seed, step and process, so that a position stands for every generator.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from training.engine.distributed.zero import load_moments, whole_moments, zero_optimizer
from training.engine.optimizer import Average

STATE_FOLDER = "training_state"


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Args:
        step: optimizer steps done.
        best: the best value of `best_metric` so far; None before the first evaluation.
        best_step: steps done when it was measured.
        data: where each process's loader is, as JSON.
    """

    step: int = 0
    best: float | None = None
    best_step: int | None = None
    data: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class TrainingState:
    """What moves beside the exported weights.

    Args:
        task: as it trains; its parameters outside the student (adapters) belong to the state, and with an average the
            student's own do, too.
        optimizer: AdamW over them.
        average: of the student, exported in its place.
        accelerator: of this process; it may hold the scaler of fp16, or shards of everything.
    """

    task: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None
    accelerator: Accelerator

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of every parameter (FSDP)."""
        return any(isinstance(parameter, DTensor) for parameter in self.task.parameters())

    def exported_weights(self) -> dict[str, Tensor] | None:
        """The weights of the finished model, by the names in memory; None where they are the student's as it stands.
        Every process calls it, because shards must be gathered.
        """
        if self.average is None and not self.is_sharded:
            return None
        weights = self.task.student.state_dict() | (self.average.tensors if self.average is not None else {})
        return {name: _whole(tensor) for name, tensor in weights.items()}

    def tensors(self) -> dict[str, Tensor]:
        """What `save` writes. Every process calls it, because shards must be gathered."""
        zero = zero_optimizer(self.optimizer)
        if not self.accelerator.is_main_process and not self.is_sharded and zero is None:
            return {}
        tensors = {
            f"task/{name}": _whole(tensor)
            for name, tensor in self.task.state_dict().items()
            if self.average is not None or not name.startswith("student.")
        }
        if zero is not None:
            return tensors | whole_moments(zero, self.task)
        for name, parameter in self.task.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = _whole(value)
        return tensors

    def save(self, folder: Path, progress: Progress, tensors: dict[str, Tensor]):
        """Write all but the exported model to a new folder."""
        folder.mkdir(parents=True)
        save_file(tensors, folder / "tensors.safetensors")
        scaler = self.accelerator.scaler
        state = {
            "progress": asdict(progress),
            "parameters": trainable_names(self.task),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")

    def load(self, checkpoint: Path) -> Progress:
        """Put back what `save` wrote; the weights come before, through `load_weights`."""
        state, tensors = _read(checkpoint)
        if (zero := zero_optimizer(self.optimizer)) is not None:
            load_moments(zero, self.task, tensors)
        else:
            _load_optimizer(self.optimizer, self.task, tensors)
        if self.average is not None:
            exported = _exported_weights(checkpoint, self.task.student)
            self.average.load({name: _like(exported[name], tensor) for name, tensor in self.average.tensors.items()})
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        return Progress(**state["progress"])


def trainable_names(task: nn.Module) -> list[str]:
    """The parameters that learn."""
    return [name for name, parameter in task.named_parameters() if parameter.requires_grad]


def load_weights(checkpoint: Path, task: nn.Module):
    """Load a checkpoint into student and adapters, before anything wraps them.

    Args:
        checkpoint: its folder.
        task: as it was built for the first step.

    Raises:
        ValueError: the checkpoint is of another recipe (other parameters).
    """
    state, tensors = _read(checkpoint)
    task.student.load_state_dict(_exported_weights(checkpoint, task.student))
    inside = {name.removeprefix("task/"): tensor for name, tensor in tensors.items() if name.startswith("task/")}
    unmatched = task.load_state_dict(inside, strict=False).unexpected_keys
    names = trainable_names(task)
    if unmatched or sorted(names) != sorted(state["parameters"]):
        raise ValueError(
            f"resume: {checkpoint} was trained with other parameters than this recipe has ({len(state['parameters'])} "
            f"against {len(names)}). Resume with the recipe saved there, or name another output_dir."
        )


def _read(checkpoint: Path) -> tuple[dict, dict[str, Tensor]]:
    folder = checkpoint / STATE_FOLDER
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return state, load_file(folder / "tensors.safetensors")


def _exported_weights(checkpoint: Path, student: nn.Module) -> dict[str, Tensor]:
    """Through the class: transformers stores some towers under other names than they have in memory."""
    return type(student).from_pretrained(checkpoint, dtype=torch.float32).state_dict()


def _whole(tensor: Tensor) -> Tensor:
    """Gathered from the processes where it is sharded, in memory of the CPU."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu().contiguous()


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """Sharded as the parameter is."""
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


def _load_optimizer(optimizer: torch.optim.Optimizer, task: nn.Module, tensors: dict[str, Tensor]):
    """Put moments and counts back; torch's `load_state_dict` wants them by position."""
    names = {parameter: name for name, parameter in task.named_parameters()}
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for position, parameter in enumerate(parameters):
        suffix = f"/{names[parameter]}"
        state[position] = {
            key.removesuffix(suffix): _like(value, parameter)
            for key, value in tensors.items()
            if key.endswith(suffix) and key != f"task{suffix}"
        }
    optimizer.load_state_dict(
        optimizer.state_dict() | {"state": {position: moments for position, moments in state.items() if moments}}
    )
