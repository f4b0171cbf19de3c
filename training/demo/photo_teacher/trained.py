"""The trained part of the teacher as a small file: every weight that training changed, in half precision."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modeling_dcclip import DCCLIPModel
from training.config import RECIPE_FILE
from training.utils.files import atomic_write

TRAINED = Path(__file__).parent / "trained"
WEIGHTS_FILE = "trained.safetensors"


def snapshot(model: DCCLIPModel) -> dict[str, Tensor]:
    """Copy all weights of a model.

    Args:
        model: Teacher before training.
    """
    return {name: value.clone() for name, value in model.state_dict().items()}


def save_trained(model: DCCLIPModel, before: dict[str, Tensor], folder: Path):
    """Write the weights that differ from those before training to `folder/trained.safetensors`, as float16.

    The model gets the rounded weights, so that it equals the one that `load_trained` restores.

    Args:
        model: Trained teacher.
        before: Weights before training, from `snapshot`.
        folder: Existing folder.
    """
    changed = {name: value for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    rounded = {name: value.half() for name, value in changed.items()}
    with atomic_write(folder / WEIGHTS_FILE) as scratch:
        save_file(rounded, scratch)
    model.load_state_dict({name: value.float() for name, value in rounded.items()}, strict=False)


def load_trained(model: DCCLIPModel, folder: Path):
    """Load the trained weights into a teacher with pretrained towers.

    Args:
        model: Teacher before training, which is changed in place.
        folder: Folder with `trained.safetensors`.

    Raises:
        ValueError: The file is missing or damaged, or belongs to a model of another shape.
    """
    path = folder / WEIGHTS_FILE
    try:
        weights = {name: value.float() for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error}). Restore it, or train the teacher.") from error
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    for name, value in weights.items():
        if shapes.get(name) != value.shape:
            raise ValueError(
                f"{path}: {name} has the shape {tuple(value.shape)}, the model expects {shapes.get(name)}. Use the "
                f"{RECIPE_FILE} that was written with the weights."
            )
    model.load_state_dict(weights, strict=False)
