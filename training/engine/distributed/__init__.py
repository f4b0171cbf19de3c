"""Settings for several devices beyond the `accelerate` config files in this folder; README.md describes the files."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from training.config import TrainingRecipe

CONFIG_FILES = tuple(sorted(Path(__file__).parent.glob("*.yaml")))


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


def adapt_to_cluster(accelerator: Accelerator, task: nn.Module, recipe: TrainingRecipe):
    """Configure FSDP or DeepSpeed for a task before they wrap it. Without them this function does nothing.

    With mixed precision both would cast all weights but not BatchNorm's statistics. They are set to autocast, as on
    one process: weights and sums stay in float32.

    Args:
        accelerator: Accelerator of this process.
        task: Task on its device, with its weights.
        recipe: Recipe with `batch_size` and `max_grad_norm`, which DeepSpeed needs to know.

    Raises:
        ValueError: The FSDP version, ZeRO stage or precision is not supported.
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
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin = accelerator.state.deepspeed_plugin
        if plugin.zero_stage not in (1, 2):
            raise ValueError(
                f"zero_stage: {plugin.zero_stage} is not supported; set it to 2, as in "
                "training/engine/distributed/deepspeed_zero2.yaml. Stage 3 shards the student itself, and stage 0 "
                "equals ddp.yaml."
            )
        if accelerator.mixed_precision == "fp16":
            raise ValueError("mixed_precision: fp16 is not supported with DeepSpeed; use bf16.")
        config = plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = recipe.batch_size
        config["gradient_clipping"] = recipe.max_grad_norm
        if accelerator.mixed_precision == "bf16":
            config["bf16"] = {"enabled": False}
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
