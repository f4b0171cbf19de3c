"""Checkpoints: a finished Hub folder, with the training state in a folder beside the weights. No pickle anywhere.

output_dir/
    config.json, model.safetensors, *.py, tokenizer, processor, README.md, recipe.yaml    the finished model
    log.jsonl
    best/                   the same files of the best student so far, where the run is evaluated on a schedule
    checkpoint-000500/      the same files, and
        training_state/state.json, tensors.safetensors
"""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.cards import write_card
from training.config import TrainingRecipe, save_recipe
from training.files import put_folder, remove_folder, scratch_folder, settle_folder, sync
from training.hub import complete_folder, write_self_check

STATE_FOLDER = "training_state"
BEST_FOLDER = "best"
CHECKPOINT = re.compile(r"checkpoint-(\d{6,})")


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


@dataclass(frozen=True)
class Artefact:
    """All that makes a folder a finished Hub repo.

    Args:
        student: the model.
        processor: its processor.
        recipe: saved beside the weights.
    """

    student: DCCLIPModel
    processor: DCCLIPProcessor
    recipe: TrainingRecipe

    def save(self, folder: Path):
        """Write weights, config, remote code, processor, tokenizer, recipe, card, licences, and what the model answers
        now to a fixed picture and fixed texts.
        """
        self.student.save_pretrained(folder)
        forget_last_call(self.processor.tokenizer)
        self.processor.save_pretrained(folder)
        save_recipe(self.recipe, folder)
        complete_folder(folder)
        write_self_check(self.student, self.processor, folder)
        write_card(folder)


def forget_last_call(tokenizer: PreTrainedTokenizerBase):
    """Fast tokenizers remember padding, truncation and loading options of their last use; a saved one should not."""
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    for option in ("max_length", "padding_side", "is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(option, None)


def save_checkpoint(artefact: Artefact, progress: Progress, task: nn.Module, optimizer: torch.optim.Optimizer) -> Path:
    """Write `checkpoint-STEP` beside the others, rename it into place, and remove the oldest.

    Args:
        artefact: the model as it is now.
        progress: how far the run is.
        task: its parameters outside the student (adapters) belong to the state.
        optimizer: AdamW.

    Returns:
        The folder.
    """
    output_dir = Path(artefact.recipe.output_dir)
    folder = output_dir / f"checkpoint-{progress.step:06d}"
    with scratch_folder(output_dir / f".{folder.name}.tmp") as scratch:
        artefact.save(scratch)
        _save_state(scratch / STATE_FOLDER, progress, task, optimizer)
        put_folder(scratch, folder)
    for old in list_checkpoints(output_dir)[: -artefact.recipe.keep_checkpoints]:
        remove_folder(old)
    return folder


def save_best(artefact: Artefact) -> Path:
    """Write the model to `output_dir/best`, in the place of the one that was best before.

    Returns:
        The folder.
    """
    folder = Path(artefact.recipe.output_dir) / BEST_FOLDER
    with scratch_folder(folder.with_name(".best.tmp")) as scratch:
        artefact.save(scratch)
        put_folder(scratch, folder)
    return folder


def save_final(artefact: Artefact):
    """Write the finished model to `output_dir` itself; every file is replaced whole."""
    output_dir = Path(artefact.recipe.output_dir)
    with scratch_folder(output_dir / ".model.tmp") as scratch:
        artefact.save(scratch)
        sync(scratch)
        for file in scratch.iterdir():
            file.replace(output_dir / file.name)
        sync(output_dir)


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)]
    return sorted(folders, key=lambda path: int(path.name.split("-")[1]))


def resume(output_dir: str | Path, task: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Load the last checkpoint of `output_dir` into student, adapters and optimizer.

    Args:
        output_dir: of the run.
        task: as it was built for the first step.
        optimizer: over the task's parameters.

    Returns:
        How far the run is; at its beginning where there is no checkpoint.

    Raises:
        ValueError: the checkpoint is of another recipe (other parameters).
    """
    settle_folder(Path(output_dir) / BEST_FOLDER)
    checkpoints = list_checkpoints(output_dir)
    if not checkpoints:
        return Progress()
    folder = checkpoints[-1]
    tensors = load_file(folder / STATE_FOLDER / "tensors.safetensors")
    state = json.loads((folder / STATE_FOLDER / "state.json").read_text(encoding="utf-8"))
    # through the class: transformers stores some towers under other names than they have in memory
    saved = type(task.student).from_pretrained(folder, dtype=torch.float32)
    task.student.load_state_dict(saved.state_dict())
    outside = {name.removeprefix("task/"): tensor for name, tensor in tensors.items() if name.startswith("task/")}
    unmatched = task.load_state_dict(outside, strict=False).unexpected_keys
    names = _trainable_names(task)
    if unmatched or sorted(names) != sorted(state["parameters"]):
        raise ValueError(
            f"resume: {folder} was trained with other parameters than this recipe has ({len(state['parameters'])} "
            f"against {len(names)}). Resume with the recipe saved there, or name another output_dir."
        )
    _load_optimizer(optimizer, task, tensors)
    return Progress(**state["progress"])


def _trainable_names(task: nn.Module) -> list[str]:
    return [name for name, parameter in task.named_parameters() if parameter.requires_grad]


def _save_state(folder: Path, progress: Progress, task: nn.Module, optimizer: torch.optim.Optimizer):
    """The student lies beside this folder; here go adapters and the optimizer's moments, by parameter name."""
    tensors = {f"task/{name}": tensor for name, tensor in task.state_dict().items() if not name.startswith("student.")}
    for name, parameter in task.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = value
    folder.mkdir(parents=True)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / "tensors.safetensors"
    )
    state = {"progress": asdict(progress), "parameters": _trainable_names(task)}
    (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")


def _load_optimizer(optimizer: torch.optim.Optimizer, task: nn.Module, tensors: dict[str, torch.Tensor]):
    """Put moments and counts back; torch's `load_state_dict` wants them by position."""
    names = {parameter: name for name, parameter in task.named_parameters()}
    state: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for position, parameter in enumerate(parameters):
        suffix = f"/{names[parameter]}"
        state[position] = {
            key.removesuffix(suffix): value
            for key, value in tensors.items()
            if key.endswith(suffix) and key != f"task{suffix}"
        }
    optimizer.load_state_dict(
        optimizer.state_dict() | {"state": {position: moments for position, moments in state.items() if moments}}
    )
