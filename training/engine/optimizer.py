"""Optimizer and FSDP. `distributed/` has the accelerate config files."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from training.config import TrainingRecipe


def make_optimizer(task: nn.Module, recipe: TrainingRecipe) -> torch.optim.AdamW:
    """Make AdamW over the trainable parameters. Biases, norms and the logit scale have no weight decay.

    Args:
        task: Task whose parameters are trained.
        recipe: Recipe with `learning_rate`, `weight_decay` and `betas`.
    """
    parameters = [parameter for parameter in task.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)


def adapt_to_cluster(accelerator: Accelerator, task: nn.Module):
    """Configure FSDP for a task on its device, before FSDP wraps it. Without FSDP this function does nothing.

    With mixed precision FSDP would cast all weights but not BatchNorm's statistics. It is set to autocast, as on one
    process: weights and sums stay in float32.

    Raises:
        ValueError: The FSDP version is not supported.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        if not accelerator.is_fsdp2:
            raise ValueError(
                "fsdp_version: 1 is not supported; set it to 2, as in training/engine/distributed/fsdp.yaml."
            )
        plugin = accelerator.state.fsdp_plugin
        # a scalar cannot be sharded; every process computes the whole loss and therefore the scalar's whole gradient
        plugin.ignored_modules = [nn.ParameterList(p for p in task.parameters() if p.ndim == 0)]
        plugin.mixed_precision_policy = None
