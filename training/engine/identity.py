"""What a checkpoint belongs to: the recipe, the data and the processes of its run, and digests of its files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.config import OF_ONE_START, TrainingRecipe, stored_fields
from training.data import Pairs

# fields of a recipe that do not change what is learned, or which model is the best
WITHOUT_EFFECT = (
    *OF_ONE_START, "output_dir", "data.workers", "data.in_memory", "data.max_skip_share", "gradient_checkpointing",
    "log_every", "trackers", "save_every", "keep_checkpoints", "eval_every", "push_to_hub", "hub_model_id",
    "hub_private_repo", "hub_strategy",
)  # fmt: skip


def run_identity(
    recipe: TrainingRecipe,
    dataset: Pairs,
    num_processes: int,
    teachers: Sequence[str] = (),
    classifier: str | None = None,
) -> dict[str, Any]:
    """Everything that the weights of a run depend on, as flat JSON values by name.

    Args:
        recipe: Recipe of the run.
        dataset: Its training data.
        num_processes: Number of its training processes.
        teachers: Revision of each teacher.
        classifier: Revision of the classifier; None without one.
    """
    values = {"number of processes": num_processes, "content of the data": dataset.identity()}
    if teachers:
        values["weights of the teachers"] = ", ".join(teachers)
    if classifier is not None:
        values["weights of the classifier"] = classifier
    return json.loads(json.dumps(_flat(stored_fields(recipe)) | values))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe every value that differs between two identities, such as `seed: 0, now 1`."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{name}: {before.get(name)!r}, now {now.get(name)!r}" for name in names]


def file_digest(path: Path) -> str:
    """Digest of a file, 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in WITHOUT_EFFECT:
            continue
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = value
    return flat
