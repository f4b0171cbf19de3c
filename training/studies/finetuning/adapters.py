"""Low-rank adapters (LoRA) of `peft` in both towers, merged into the weights at the end.

Source: Hu et al., arXiv 2106.09685.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import AlignRecipe
from training.hub.hub_model import HubModel
from training.students import load_student

if TYPE_CHECKING:
    from training.teachers.ensemble import Ensemble

RANK = 16
LEARNING_RATE = 1e-3  # adapters start at zero
PROJECTIONS = ("visual_projection", "text_projection")  # are trained as a whole
WHOLE = (*PROJECTIONS, "logit_scale")


class MergedModel(HubModel):
    """Model that is written without adapters, which are part of its weights then."""

    def save(self, folder: Path):
        """Merge the adapters and write the folder."""
        merge(self.student)
        super().save(folder)


def insert(student: DCCLIPModel, seed: int):
    """Insert adapters beside every linear layer and every 1 x 1 convolution of both towers.

    Args:
        student: Model that is changed in place.
        seed: Seed of the adapters' initial weights.
    """
    names = [name for name, module in student.named_modules() if _is_adapted(name, module)]
    torch.manual_seed(seed)
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names), student)


def merge(student: nn.Module):
    """Add the adapters to the weights of their layers, and remove them.

    Args:
        student: Model with adapters, changed in place.
    """
    adapted = [(name, module) for name, module in student.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in adapted:
        module.merge()
        parent, _, attribute = name.rpartition(".")
        setattr(student.get_submodule(parent), attribute, module.get_base_layer())


def adapter_recipe(recipe: AlignRecipe, student: DCCLIPModel) -> AlignRecipe:
    """The recipe of a run that trains adapters, both projections and the logit scale.

    Args:
        recipe: Recipe of a run that trains everything.
        student: Starting model; it is changed.
    """
    insert(student, recipe.seed)
    names = [name for name, _ in student.named_parameters()]
    frozen = [name for name in names if "lora_" not in name and not name.startswith(WHOLE)]
    return replace(recipe, freeze=frozen, learning_rate=LEARNING_RATE)


def open_student(recipe: AlignRecipe, teachers: "Ensemble | None") -> tuple[DCCLIPModel, DCCLIPProcessor]:
    """Load the starting model of a recipe, and insert adapters.

    Args:
        recipe: Recipe of the run.
        teachers: Teachers of the student, which this function does not need.
    """
    student, processor = load_student(recipe.student)
    insert(student, recipe.seed)
    return student, processor


def _is_adapted(name: str, module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear) and not name.startswith(PROJECTIONS)
