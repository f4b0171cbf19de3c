"""Optimizer, and moving average of the student's weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from training.config import TrainingRecipe


def make_optimizer(task: nn.Module, recipe: TrainingRecipe) -> torch.optim.AdamW:
    """Make AdamW over the trainable parameters. Biases, norms and the logit scale have no weight decay."""
    parameters = [parameter for parameter in task.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    is_on_gpu = any(parameter.is_cuda for parameter in parameters)
    return torch.optim.AdamW(
        groups, lr=recipe.learning_rate, betas=recipe.betas, fused=is_on_gpu or None
    )


# torch's AveragedModel and timm's ModelEmaV3 do not fit: both deep-copy the whole student including frozen layers and
# buffers, need a counter of their own in the checkpoint, and start with another decay than the `update` below.
class Average:
    """Exponential moving average of a student's trainable weights, which is exported instead of the weights.

    Args:
        student: Model with the initial weights.
        decay: Share of the old average that a step keeps, 0..1. In the first steps it is smaller, so that the average
            soon forgets the initial weights.
    """

    def __init__(self, student: nn.Module, decay: float):
        self.decay = decay
        self.tensors: dict[str, Tensor] = {
            name: parameter.detach().clone()
            for name, parameter in student.named_parameters()
            if parameter.requires_grad
        }

    def update(self, student: nn.Module, step: int):
        """Include the weights after a step, numbered from 0."""
        parameters = dict(student.named_parameters())
        weights: list[Tensor] = [parameters[name].detach() for name in self.tensors]
        update_average = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        update_average(list(self.tensors.values()), weights, step)
