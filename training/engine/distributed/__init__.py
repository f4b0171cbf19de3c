"""What many devices ask for beyond what `accelerate config` says; the config files and their page lie beside."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from training.config import TrainingRecipe

CONFIG_FILES = tuple(sorted(Path(__file__).parent.glob("*.yaml")))


def load_on_every_process():
    """Where nobody says otherwise, transformers under FSDP loads weights on the first process alone, and accelerate
    sends them around when it wraps the model. A student is cut, compared and resumed before that, on every process.
    """
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def memory_format(accelerator: Accelerator) -> torch.memory_format:
    """Channels last, which convolutions are fastest in; FSDP cannot cut such weights."""
    is_fsdp = accelerator.distributed_type == DistributedType.FSDP
    return torch.contiguous_format if is_fsdp else torch.channels_last


def adapt_to_cluster(accelerator: Accelerator, task: nn.Module, recipe: TrainingRecipe):
    """Tell FSDP and DeepSpeed what they need to know of a task, before they wrap it. Without them, nothing is done.

    Both would cast all weights where precision is mixed, and BatchNorm's statistics not. Under autocast, as without
    them, weights and sums stay in float32.

    Args:
        accelerator: of this process.
        task: on the device, with its weights.
        recipe: batch size and largest gradient, which DeepSpeed handles itself.

    Raises:
        ValueError: a variant that is not supported.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        if not accelerator.is_fsdp2:
            raise ValueError(
                "fsdp_version: 1 is not supported; set it to 2, as in training/engine/distributed/fsdp.yaml."
            )
        plugin = accelerator.state.fsdp_plugin
        # a scalar cannot be cut, and needs no exchange: every process computes the whole loss, and so its gradient
        plugin.ignored_modules = [nn.ParameterList(p for p in task.parameters() if p.ndim == 0)]
        plugin.mixed_precision_policy = None
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin = accelerator.state.deepspeed_plugin
        if plugin.zero_stage not in (1, 2):
            raise ValueError(
                f"zero_stage: {plugin.zero_stage} is not supported; set it to 2, as in "
                "training/engine/distributed/deepspeed_zero2.yaml. Stage 3 shards the student itself, and stage 0 is "
                "what ddp.yaml does."
            )
        if accelerator.mixed_precision == "fp16":
            raise ValueError("mixed_precision: fp16 is not supported with DeepSpeed; take bf16.")
        config = plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = recipe.batch_size
        config["gradient_clipping"] = recipe.max_grad_norm
        if accelerator.mixed_precision == "bf16":
            config["bf16"] = {"enabled": False}
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
