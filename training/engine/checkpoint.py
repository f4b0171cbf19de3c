"""Checkpoints: a finished Hub folder, with the training state in a folder beside the weights. No pickle anywhere.

output_dir/
    config.json, model.safetensors, *.py, tokenizer, processor, README.md, recipe.yaml    the finished model
    log.jsonl
    best/                   the same files of the best student so far, where the run is evaluated on a schedule
    tracking/               what trackers such as tensorboard write, where the recipe names one
    checkpoint-000500/      the same files, and
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
    """The model of a run: it writes itself to a folder, complete as a Hub repo."""

    @property
    def student(self) -> DCCLIPModel:
        """The model."""

    @property
    def recipe(self) -> TrainingRecipe:
        """The recipe of the run."""

    def save(self, folder: Path):
        """Write every file of the repo."""

    def with_weights(self, weights: dict[str, Tensor] | None) -> "FinishedModel":
        """A copy with other weights; None returns the model itself."""


def save_checkpoint(model: FinishedModel, progress: Progress, state: TrainingState) -> Path:
    """Write `checkpoint-STEP` beside the others, rename it into place, and remove the oldest. Every process calls it,
    because shards must be gathered; the main one writes.

    Args:
        model: the model as it is now.
        progress: how far the run is.
        state: all else that a resumed run needs.

    Returns:
        The folder.

    Raises:
        OSError: it could not be written, as on a full disk; what was saved before is untouched.
    """
    output_dir = Path(model.recipe.output_dir)
    folder = output_dir / f"checkpoint-{progress.step:06d}"
    weights, tensors = state.exported_weights(), state.tensors()
    if not state.accelerator.is_main_process:
        return folder
    with _whole(output_dir, f".{folder.name}.tmp") as scratch:
        model.with_weights(weights).save(scratch)
        state.save(scratch / STATE_FOLDER, progress, tensors)
        replace_folder(scratch, folder)
    for old in list_checkpoints(output_dir)[: -model.recipe.keep_checkpoints]:
        remove_folder(old)
    return folder


def save_best(model: FinishedModel) -> Path:
    """Write the model to `output_dir/best`, in the place of the one that was best before.

    Returns:
        The folder.
    """
    output_dir = Path(model.recipe.output_dir)
    with _whole(output_dir, f".{BEST_FOLDER}.tmp") as scratch:
        model.save(scratch)
        replace_folder(scratch, output_dir / BEST_FOLDER)
    return output_dir / BEST_FOLDER


def save_final(model: FinishedModel):
    """Write the finished model to `output_dir` itself; every file is replaced whole."""
    output_dir = Path(model.recipe.output_dir)
    with _whole(output_dir, ".model.tmp") as scratch:
        model.save(scratch)
        sync(scratch)
        for file in scratch.iterdir():
            file.replace(output_dir / file.name)
        sync(output_dir, deep=False)


@contextmanager
def _whole(output_dir: Path, name: str) -> Iterator[Path]:
    """A scratch folder, and what to do if it cannot be written."""
    try:
        with scratch_folder(output_dir / name) as scratch:
            yield scratch
    except (OSError, SafetensorError) as error:
        found = list_checkpoints(output_dir)
        remedy = f"go on with --resume from {found[-1].name}" if found else "start again"
        raise OSError(f"output_dir: cannot save to {output_dir} ({error}). Make room, and {remedy}.") from error


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)]
    return sorted(folders, key=lambda path: int(path.name.split("-")[1]))


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The one to go on from; None where there is none."""
    found = list_checkpoints(output_dir)
    return found[-1] if found else None


def settle(output_dir: Path):
    """Make the folder, and end what an earlier run was killed in."""
    output_dir.mkdir(parents=True, exist_ok=True)
    recover_folder(output_dir / BEST_FOLDER)
    for rest in (*output_dir.glob(".*.tmp"), *output_dir.glob(".checkpoint-*.old")):
        shutil.rmtree(rest, ignore_errors=True)
