"""The models by name: sizes and baselines with random weights, and any folder of a finished student."""

from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedTokenizerBase

from modeling_dcclip import DCCLIPConfig, DCCLIPModel
from training.students import SIZES, load_size
from training.students.build import student_model
from training.studies.budget.baselines import BASELINES, DualEncoder, split
from training.text.tokenizers import load_tokenizer
from training.utils.files import REPO_ROOT

NAMES = (*SIZES, *BASELINES)
WEIGHTS = "weights"
# where there is no tokenizer to load: its pieces are few, so that texts come out rather longer than by a model's own
STAND_IN = REPO_ROOT / "training" / "demo" / "mini_teacher"
STAND_IN_LENGTH = 64


def save_weights(name: str, folder: Path) -> DualEncoder:
    """Build a size or a baseline with random weights, and save it as its users would have it.

    Args:
        name: one of `NAMES`.
        folder: gets `weights`, a finished folder of ours or the tensors of a baseline's two towers.
    """
    torch.manual_seed(0)
    if name in SIZES:
        model = student_model(load_size(name, vision_init="random", text_init="random"))
        model.save_pretrained(folder / WEIGHTS)
        return split(model, model.config.image_size)
    encoder = BASELINES[name]()
    (folder / WEIGHTS).mkdir(parents=True)
    for tower, module in (("image", encoder.image_tower), ("text", encoder.text_tower)):
        save_file(module.state_dict(), folder / WEIGHTS / f"{tower}.safetensors")
    return encoder


def load_weights(name: str, weights: Path) -> DualEncoder:
    """Load a model from its files alone, without making it up first.

    Args:
        name: of the baseline, where the folder is none of ours.
        weights: what `save_weights` left, or the folder of a finished student.
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
    """Refuse what is no finished student.

    Raises:
        ValueError: `folder` is none.
    """
    try:
        model_type = AutoConfig.from_pretrained(folder).model_type
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model: {folder!r} is no folder of a model. Give what a training run left. ({error})"
        ) from error
    if model_type != DCCLIPConfig.model_type:
        raise ValueError(
            f"model: {folder!r} is of the family {model_type!r}. Give a folder of a 'dcclip' model; the baselines are "
            "named with --models."
        )


def tokenizer_of(weights: Path, is_folder: bool) -> tuple[PreTrainedTokenizerBase, int]:
    """The tokenizer of a folder, or the stand-in of a model that exists as a config alone; and the longest text."""
    if not is_folder:
        return load_tokenizer(str(STAND_IN)), STAND_IN_LENGTH
    return load_tokenizer(str(weights), "model"), AutoConfig.from_pretrained(weights).max_text_length


def bytes_in(weights: Path) -> int:
    """Of the tensors alone, not of tokenizer and code."""
    return sum(path.stat().st_size for path in weights.glob("*.safetensors"))
