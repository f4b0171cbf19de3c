"""Checkpoints: complete Hub folders, each with its training state in a subfolder. No file is a pickle.

output_dir/
    config.json, model.safetensors, *.py, tokenizer, processor, README.md, recipe.yaml    the finished model
    log.jsonl
    best/                   the same files of the best student so far, if the run is evaluated during training
    tracking/               files of experiment trackers such as tensorboard, if the recipe names one
    checkpoint-000500/      the same files as the finished model, and
        training_state/state.json, tensors.safetensors
"""

import filecmp
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError
from torch import Tensor

from modeling_dcclip import DCCLIPModel
from training.config import TrainingRecipe
from training.engine.state import STATE_FOLDER, Progress, TrainingState
from training.utils.files import (
    OLD_SUFFIX,
    recover_folder,
    remove_folder,
    replace_folder,
    scratch_folder,
    set_modes,
    sync,
)
from training.utils.output import claim_folder, record_names

BEST_FOLDER = "best"
CHECKPOINT_COMMAND = "checkpoint"  # as which checkpoints are in the record of the folder
WEIGHTS_FILE = "model.safetensors"
TRACKING_FOLDER = "tracking"
CHECKPOINT = re.compile(r"checkpoint-(\d{6,})")


class FinishedModel(Protocol):
    """Model of a run that saves itself as a complete Hub folder."""

    @property
    def student(self) -> DCCLIPModel:
        """Student model."""

    @property
    def recipe(self) -> TrainingRecipe:
        """Recipe of the run."""

    @property
    def derived(self) -> tuple[str, ...]:
        """Names of files and folders that other commands make of the weights, such as exports."""

    def save(self, folder: Path):
        """Write every file of the Hub folder."""

    def at_step(self, step: int) -> "FinishedModel":
        """Copy that states the number of steps done."""

    def with_weights(self, weights: dict[str, Tensor] | None) -> "FinishedModel":
        """Copy with other weights; None returns the model itself."""


def save_checkpoint(finished: FinishedModel, progress: Progress, state: TrainingState) -> Path:
    """Write `checkpoint-STEP` atomically, and remove the oldest checkpoints.

    Every process must call this function, because shards are gathered. The main process writes.

    Args:
        finished: Model with its current weights.
        progress: Position of the run.
        state: Everything else that a resumed run needs.

    Returns:
        Folder of the checkpoint.

    Raises:
        OSError: The checkpoint cannot be written, such as on a full disk. Earlier checkpoints are intact.
    """
    output_dir = Path(finished.recipe.output_dir)
    folder = output_dir / f"checkpoint-{progress.step:06d}"
    weights, tensors = state.exported_weights(), state.tensors()
    if not state.accelerator.is_main_process:
        return folder
    with _saving(output_dir, folder.name) as scratch:
        finished.at_step(progress.step).with_weights(weights).save(scratch)
        state.save(scratch / STATE_FOLDER, progress, tensors)
        set_modes(scratch)
        replace_folder(scratch, folder)
    record_names(output_dir, [folder.name], CHECKPOINT_COMMAND)
    for old in list_checkpoints(output_dir)[: -finished.recipe.keep_checkpoints]:
        remove_folder(old)
    return folder


def save_best(finished: FinishedModel) -> Path:
    """Write the model to `output_dir/best` atomically, in place of the earlier best model.

    Returns:
        Folder of the model.
    """
    output_dir = Path(finished.recipe.output_dir)
    with _saving(output_dir, BEST_FOLDER) as scratch:
        finished.save(scratch)
        set_modes(scratch)
        replace_folder(scratch, output_dir / BEST_FOLDER)
    return output_dir / BEST_FOLDER


def save_final(finished: FinishedModel):
    """Write the finished model to `output_dir` itself, each file atomically. What was made of other weights leaves."""
    output_dir = Path(finished.recipe.output_dir)
    with _saving(output_dir, "model") as scratch:
        finished.save(scratch)
        set_modes(scratch)
        sync(scratch)
        if not _same_file(output_dir / WEIGHTS_FILE, scratch / WEIGHTS_FILE):
            for path in (output_dir / name for name in finished.derived):
                remove_folder(path) if path.is_dir() else path.unlink(missing_ok=True)
        for file in scratch.iterdir():
            file.replace(output_dir / file.name)
        sync(output_dir, deep=False)


def _same_file(first: Path, second: Path) -> bool:
    return first.is_file() and filecmp.cmp(first, second, shallow=False)


@contextmanager
def _saving(output_dir: Path, name: str) -> Iterator[Path]:
    """Scratch folder to write to; a failed write is reported with the way to continue."""
    try:
        with scratch_folder(output_dir / name) as scratch:
            yield scratch
    except (OSError, SafetensorError) as error:
        found = list_checkpoints(output_dir)
        remedy = f"continue with --resume from {found[-1].name}" if found else "start again"
        raise OSError(f"output_dir: cannot save to {output_dir} ({error}). Free some space, and {remedy}.") from error


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)]
    return sorted(folders, key=lambda path: int(path.name.split("-")[1]))


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """Most recent checkpoint of a run; None if there is none."""
    found = list_checkpoints(output_dir)
    return found[-1] if found else None


@contextmanager
def open_output_dir(
    recipe: TrainingRecipe, names: Sequence[str], command: str, inputs: dict[str, str | None]
) -> Iterator[None]:
    """Claim the output folder of a run for the `with` block, and complete what a killed run left unfinished in it.

    Only the main process calls it.

    Args:
        recipe: Recipe of the run.
        names: Names that the run writes to the folder, besides checkpoints.
        command: Name of the command.
        inputs: Folders that the run reads, by the name of their option.

    Raises:
        ValueError: The folder has a model, checkpoints or other files that the run would replace, or another run is
            writing to it.
    """
    output_dir, found = Path(recipe.output_dir), list_checkpoints(recipe.output_dir)
    resumes = recipe.resume and bool(found)
    if not (resumes or recipe.overwrite):
        kept = [found[-1].name] if found else []
        kept += [WEIGHTS_FILE] if (output_dir / WEIGHTS_FILE).exists() else []
        if kept:
            resume = "add --resume to continue it, " if found else ""
            raise ValueError(
                f"output_dir: {output_dir} has {' and '.join(kept)} of another run. Choose another folder, {resume}or "
                "add --overwrite to replace it."
            )
    with claim_folder(output_dir, names, command=command, inputs=inputs, overwrite=resumes or recipe.overwrite):
        recover_folder(output_dir / BEST_FOLDER)
        for leftover in output_dir.glob(f".checkpoint-*{OLD_SUFFIX}"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not recipe.resume:  # a later --resume must not find the checkpoints of the run that is replaced
            for old in (*found, *(path for path in [output_dir / BEST_FOLDER] if path.exists())):
                remove_folder(old)
        yield
