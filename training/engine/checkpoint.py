"""Checkpoints: complete Hub folders, each with its training state in a subfolder. No file is a pickle.

output_dir/
    config.json, model.safetensors, *.py, tokenizer, processor, README.md, recipe.yaml    the finished model
    log.jsonl
    best/                   the same files of the best student so far, if the run is evaluated during training
    tracking/               files of experiment trackers such as tensorboard, if the recipe names one
    checkpoint-000500/      the same files as the finished model, and
        training_state/state.json, tensors.safetensors
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError
from torch import Tensor

from modeling_dcclip import DCCLIPModel
from training.config import TrainingRecipe
from training.engine.state import STATE_FOLDER, Progress, TrainingState
from training.utils.files import recover_folder, remove_folder, replace_folder, scratch_folder, sync

BEST_FOLDER = "best"
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

    def save(self, folder: Path):
        """Write every file of the Hub folder."""

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
    with _saving(output_dir, f".{folder.name}.tmp") as scratch:
        finished.with_weights(weights).save(scratch)
        state.save(scratch / STATE_FOLDER, progress, tensors)
        _set_modes(scratch)
        replace_folder(scratch, folder)
    for old in list_checkpoints(output_dir)[: -finished.recipe.keep_checkpoints]:
        remove_folder(old)
    return folder


def save_best(finished: FinishedModel) -> Path:
    """Write the model to `output_dir/best` atomically, in place of the earlier best model.

    Returns:
        Folder of the model.
    """
    output_dir = Path(finished.recipe.output_dir)
    with _saving(output_dir, f".{BEST_FOLDER}.tmp") as scratch:
        finished.save(scratch)
        _set_modes(scratch)
        replace_folder(scratch, output_dir / BEST_FOLDER)
    return output_dir / BEST_FOLDER


def save_final(finished: FinishedModel):
    """Write the finished model to `output_dir` itself, each file atomically."""
    output_dir = Path(finished.recipe.output_dir)
    with _saving(output_dir, ".model.tmp") as scratch:
        finished.save(scratch)
        _set_modes(scratch)
        sync(scratch)
        for file in scratch.iterdir():
            file.replace(output_dir / file.name)
        sync(output_dir, deep=False)


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


def _set_modes(folder: Path):
    """Give all files the mode of new files, such as 0644: safetensors creates its files with mode 0600."""
    mode = folder.stat().st_mode & 0o666  # the folder was created under the user's umask
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)]
    return sorted(folders, key=lambda path: int(path.name.split("-")[1]))


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """Most recent checkpoint of a run; None if there is none."""
    found = list_checkpoints(output_dir)
    return found[-1] if found else None


def prepare_output_dir(output_dir: Path):
    """Create the folder, and complete or remove what a killed run left unfinished in it."""
    output_dir.mkdir(parents=True, exist_ok=True)
    recover_folder(output_dir / BEST_FOLDER)
    for leftover in (*output_dir.glob(".*.tmp"), *output_dir.glob(".checkpoint-*.old")):
        shutil.rmtree(leftover, ignore_errors=True)
