"""What steps: AdamW over groups, its rate as a function of the step, and the moving average of the student."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from training.config import TrainingRecipe


def learning_rate_at(step: int, recipe: TrainingRecipe) -> float:
    """Linear warm-up, then cosine to zero or constant; a pure function of the step."""
    warmup = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    if recipe.schedule == "constant":
        return recipe.learning_rate * warmup
    return recipe.learning_rate * warmup * (1 + math.cos(math.pi * step / recipe.max_steps)) / 2


def make_optimizer(task: nn.Module, recipe: TrainingRecipe) -> torch.optim.AdamW:
    """AdamW; matrices and kernels decay, while biases, norms and the logit scale do not."""
    parameters = [parameter for parameter in task.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)


class Average:
    """The exponential moving average of a student's learning weights, which is exported in their place.

    Args:
        student: whose weights it starts as.
        decay: share of the old average in the new one, 0..1. In the first steps it is less, so that the average
            forgets where it began.
    """

    def __init__(self, student: nn.Module, decay: float):
        self.decay = decay
        self.tensors: dict[str, Tensor] = {
            name: parameter.detach().clone()
            for name, parameter in student.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, student: nn.Module, step: int):
        """Take in the weights after step number `step`, which counts from 0."""
        parameters = dict(student.named_parameters())
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.tensors.values()), [parameters[name].detach() for name in self.tensors], 1 - decay
        )

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]):
        """Go on from an earlier average."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
