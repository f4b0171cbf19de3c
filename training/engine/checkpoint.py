"""Checkpoints: complete Hub folders, each with its training state in a subfolder. No file is a pickle.

output_dir/
    config.json, model.safetensors, *.py, tokenizer, processor, recipe.yaml    the finished model
    README.md               its card, written once at the end of a run
    log.jsonl
    best/                   the same files of the best student so far, if the run is evaluated during training
    tracking/               files of experiment trackers such as tensorboard, if the recipe names one
    checkpoint-000500/      the same files as the finished model without the card, and
        training_state/state.json, tensors.safetensors
"""

import filecmp
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from training.config import TrainingRecipe, plain
from training.data import Pairs
from training.hub import MODEL_FILES, WEIGHTS_FILE, derived_names
from training.utils.files import (
    OLD_SUFFIX,
    recover_folder,
    remove_folder,
    replace_folder,
    scratch_folder,
    set_modes,
    sync,
)
from training.utils.keys import differences, digest_file, make_key
from training.utils.output import claim_folder, record_names

STATE_FOLDER = "training_state"
STATE_FILE, TENSORS_FILE = "state.json", "tensors.safetensors"
BEST_FOLDER = "best"
TRACKING_FOLDER = "tracking"
CHECKPOINT = re.compile(r"checkpoint-(\d{6,})")


Write = Callable[[Path], None]  # writes every file of a model to a folder


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


def save_checkpoint(
    recipe: TrainingRecipe, write: Write, tensors: dict[str, Tensor], state: dict[str, Any]
):
    """Write `checkpoint-STEP` atomically, and remove the oldest checkpoints.

    Args:
        recipe: Recipe of the run.
        write: Function that writes the model.
        tensors: Weights and moments of the optimizer.
        state: `progress`, `scaler` and `identity` of the run, as JSON values.

    Raises:
        OSError: The checkpoint cannot be written, such as on a full disk. Earlier checkpoints are intact.
    """
    output_dir = Path(recipe.output_dir)
    folder = output_dir / f"checkpoint-{state['progress']['step']:06d}"
    with _saving(folder, write) as scratch:
        (scratch / STATE_FOLDER).mkdir()
        save_file(tensors, scratch / STATE_FOLDER / TENSORS_FILE)
        digests = {
            str(path.relative_to(scratch)): digest_file(path)
            for path in sorted(scratch.rglob("*.safetensors"))
        }
        text = json.dumps(state | {"digests": digests}, indent=1)
        (scratch / STATE_FOLDER / STATE_FILE).write_text(text, encoding="utf-8")
        replace_folder(scratch, folder)
    record_names(output_dir, [folder.name], command="checkpoint")
    for old in list_checkpoints(output_dir)[: -recipe.keep_checkpoints]:
        remove_folder(old)


def save_best(output_dir: Path, write: Write):
    """Write a model to `output_dir/best` atomically, in place of the earlier best model."""
    with _saving(output_dir / BEST_FOLDER, write) as scratch:
        replace_folder(scratch, output_dir / BEST_FOLDER)


def save_final(output_dir: Path, write: Write):
    """Write a model to `output_dir` itself, each file atomically. Files made from other weights are removed."""
    with _saving(output_dir / "model", write) as scratch:
        set_modes(scratch)
        sync(scratch)
        old = output_dir / WEIGHTS_FILE
        new = scratch / WEIGHTS_FILE
        if not (old.is_file() and filecmp.cmp(old, new, shallow=False)):
            for name in derived_names(output_dir):
                path = output_dir / name
                if path.is_dir():
                    remove_folder(path)
                else:
                    path.unlink(missing_ok=True)
        for file in scratch.iterdir():
            file.replace(output_dir / file.name)
        sync(output_dir, deep=False)


@contextmanager
def _saving(folder: Path, write: Write) -> Iterator[Path]:
    """Scratch folder with a model, to be moved to `folder`; a failed write is reported with the way to continue."""
    output_dir = folder.parent
    try:
        with scratch_folder(folder) as scratch:
            write(scratch)
            yield scratch
    except (OSError, SafetensorError) as error:
        found = list_checkpoints(output_dir)
        remedy = f"continue with --resume from {found[-1].name}" if found else "start again"
        raise OSError(
            f"output_dir: cannot save to {output_dir} ({error}). Free some space, and {remedy}."
        ) from error


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    folders = [
        path for path in Path(output_dir).glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)
    ]
    return sorted(folders, key=lambda path: int(path.name.split("-")[1]))


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


@contextmanager
def open_output_dir(
    options: Any,
    checkpoints: list[Path],
    names: Iterable[str],
    command: str,
    inputs: Mapping[str, str | None],
) -> Iterator[None]:
    """Claim the output folder of a run for the `with` block, and complete what a killed run left unfinished in it.

    Only the main process calls it.

    Args:
        options: Options with `output_dir`, `resume` and `overwrite`.
        checkpoints: Checkpoints of an earlier run in the output folder.
        names: Names of the files and folders that the run writes in addition to a model.
        command: Name of the command.
        inputs: Folders that the run reads, by the name of their option.

    Raises:
        ValueError: The folder has a model, checkpoints or other files that the run would replace, or a run is already
            writing to it.
    """
    output_dir = Path(options.output_dir)
    replaces = options.overwrite or (options.resume and bool(checkpoints))
    if not replaces:
        kept = [path.name for path in checkpoints[-1:]]
        if (output_dir / WEIGHTS_FILE).exists():
            kept.append(WEIGHTS_FILE)
        kept += derived_names(output_dir)
        if kept:
            resume = "add --resume to continue it, " if checkpoints else ""
            raise ValueError(
                f"output_dir: {output_dir} has {' and '.join(kept)} of an earlier run. Choose an empty folder, "
                f"{resume}or add --overwrite to replace it."
            )
    names = [*MODEL_FILES, *names]
    with claim_folder(output_dir, names, command=command, inputs=inputs, overwrite=replaces):
        recover_folder(output_dir / BEST_FOLDER)
        for leftover in output_dir.glob(f".checkpoint-*{OLD_SUFFIX}"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
