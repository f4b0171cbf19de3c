"""Weights of the measured models: sizes and baselines with random weights, and folders of finished students."""

from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedTokenizerBase

from modeling_dcclip import DCCLIPConfig, DCCLIPModel
from training.students import SIZES, load_size
from training.students.build import student_from_config
from training.studies.budget.baselines import BASELINES, DualEncoder, split
from training.text.tokenizers import load_tokenizer
from training.utils.files import REPO_ROOT

WEIGHTS = "weights"
# for models built from a config alone; its vocabulary is small, so texts have somewhat more tokens than with their own
SHARED_TOKENIZER = REPO_ROOT / "training" / "demo" / "mini_teacher"
SHARED_MAX_LENGTH = 64


def save_weights(name: str, folder: Path) -> DualEncoder:
    """Build a size or a baseline with random weights, and save it in its usual format.

    Args:
        name: Name of a size or a baseline.
        folder: Parent of the new folder `weights`: a finished folder for a size, a file per tower for a baseline.
    """
    torch.manual_seed(0)
    if name in SIZES:
        model = student_from_config(load_size(name, vision_init="random", text_init="random"))
        model.save_pretrained(folder / WEIGHTS)
        return split(model, model.config.image_size)
    encoder = BASELINES[name]()
    (folder / WEIGHTS).mkdir(parents=True)
    for tower, module in (("image", encoder.image_tower), ("text", encoder.text_tower)):
        save_file(module.state_dict(), folder / WEIGHTS / f"{tower}.safetensors")
    return encoder


def load_weights(name: str, weights: Path) -> DualEncoder:
    """Load a model without initialising weights first, as `from_pretrained` does.

    Args:
        name: Name of the baseline; ignored if `weights` is a finished folder.
        weights: Folder `weights` of `save_weights`, or the folder of a finished student.
    """
    if (weights / "config.json").exists():
        model = DCCLIPModel.from_pretrained(weights, dtype=torch.float32)
        return split(model, model.config.image_size)
    with init_empty_weights(include_buffers=False):
        encoder = BASELINES[name]()
    for tower, module in (("image", encoder.image_tower), ("text", encoder.text_tower)):
        module.load_state_dict(load_file(weights / f"{tower}.safetensors"), assign=True)
    return encoder


def check_folder(folder: str):
    """Check that a folder holds a finished student.

    Raises:
        ValueError: If it does not.
    """
    try:
        model_type = AutoConfig.from_pretrained(folder).model_type
    except (OSError, ValueError) as error:
        raise ValueError(
            f"models: {folder!r} is not the folder of a model ({error}). Name the output folder of a training run."
        ) from error
    if model_type != DCCLIPConfig.model_type:
        raise ValueError(
            f"models: {folder!r} holds a model of the type {model_type!r}. Name the folder of a 'dcclip' model; other "
            "families are measured as baselines, by name."
        )


def tokenizer_of(weights: Path, is_folder: bool) -> tuple[PreTrainedTokenizerBase, int]:
    """The tokenizer of a model, and its largest number of tokens per text.

    Args:
        weights: Folder of the weights.
        is_folder: Whether this is the folder of a finished student; other models share the demo's tokenizer.
    """
    if not is_folder:
        return load_tokenizer(str(SHARED_TOKENIZER)), SHARED_MAX_LENGTH
    return load_tokenizer(str(weights), "models"), AutoConfig.from_pretrained(weights).max_text_length


def bytes_in(weights: Path) -> int:
    """Bytes of the safetensors files in a folder, without tokenizer and code."""
    return sum(path.stat().st_size for path in weights.glob("*.safetensors"))
