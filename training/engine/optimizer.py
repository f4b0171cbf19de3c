"""Optimizer, moving average of the student's weights, and FSDP. `distributed/` has the accelerate config files."""

import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
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
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)


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

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]):
        """Replace the average by an earlier one; names that are not averaged are ignored."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])


def load_on_every_process():
    """Load weights on every process under FSDP.

    By default transformers loads them on the first process only, and accelerate broadcasts them when it wraps the
    model. A student is initialized, compared and resumed before that, on every process.
    """
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def memory_format(accelerator: Accelerator) -> torch.memory_format:
    """Memory format of the weights: channels last, the fastest for convolutions. FSDP cannot shard such weights."""
    is_fsdp = accelerator.distributed_type == DistributedType.FSDP
    return torch.contiguous_format if is_fsdp else torch.channels_last


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
