"""What the folder of a model tells about the data that it was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from training.config import RECIPE_FILE, EvalConfig
from training.corpus.emoji import DEFAULT_CACHE

# the splits that training/finetune.py leaves in a model's folder
SPLITS_FOLDER, TRAINING_FILE, VALIDATION_FILE = "data", "train.parquet", "validation.parquet"
EMOJI = "training.corpus.emoji:"  # functions that load the embedded corpus


@dataclass(frozen=True)
class ModelData:
    """Data of the kind that a model was trained on.

    Args:
        is_emoji: Whether all training data are the embedded corpus of emoji.
        validation: Folder of the training and the validation split that fine-tuning left in the model's folder.
        eval: Labelled validation set of the recipe.
    """

    is_emoji: bool = False
    validation: Path | None = None
    eval: EvalConfig | None = None


def find_model_data(folder: Path) -> ModelData:
    """Look for data of the kind that a model was trained on.

    Nothing of the recipe is run: a validation set counts only if it is a file or a folder here.

    Args:
        folder: Folder of the model.

    Returns:
        The data; all fields are empty if the folder tells of none.
    """
    splits = folder / SPLITS_FOLDER
    if (splits / VALIDATION_FILE).is_file():
        return ModelData(validation=splits)
    recipe = _read_recipe(folder / RECIPE_FILE)
    found = recipe.get("data")
    data = found if isinstance(found, dict) else {}
    sources = [source.get("train") for source in data.get("sources") or [] if isinstance(source, dict)]
    sources += [data["train"]] if data.get("train") else []
    return ModelData(_are_emoji(sources), None, _local_eval(recipe.get("eval")))


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return recipe if isinstance(recipe, dict) else {}


def _are_emoji(sources: Sequence[Any]) -> bool:
    cache = DEFAULT_CACHE.expanduser().resolve()
    return bool(sources) and all(
        isinstance(source, str) and (source.startswith(EMOJI) or Path(source).resolve().is_relative_to(cache))
        for source in sources
    )


def _local_eval(value: Any) -> EvalConfig | None:
    """The validation set of a recipe if its files are on this machine."""
    if not isinstance(value, dict) or not value.get("data") or not value.get("class_names"):
        return None
    if not Path(str(value["data"])).exists():
        return None
    known = {field.name for field in fields(EvalConfig)}
    return EvalConfig(**{name: entry for name, entry in value.items() if name in known})
