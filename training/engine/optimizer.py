"""Optimizer, learning-rate schedule, moving average of the student's weights, and several devices.

`distributed/` has the accelerate config files. DeepSpeed's ZeRO 1 and 2 shard the optimizer state over the processes.
It is saved as whole tensors by parameter name, as on one process, so that a run can resume with or without DeepSpeed.
"""

import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

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


MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's first and second moment


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


def zero_optimizer(optimizer: Any) -> Any | None:
    """DeepSpeed's optimizer inside the one that Accelerate returns; None without DeepSpeed."""
    inner = getattr(optimizer, "optimizer", None)
    return inner if hasattr(inner, "single_partition_of_fp32_groups") else None


def hold_scalars(task: nn.Module):
    """Copy scalar parameters that a task clamped after the step, such as the logit scale, to DeepSpeed's own copies,
    which would overwrite them.
    """
    from deepspeed.utils import safe_set_full_fp32_param

    for _, parameter in _trainable(task):
        if parameter.ndim == 0:
            safe_set_full_fp32_param(parameter, parameter.detach().float())


def whole_moments(zero: Any, task: nn.Module) -> dict[str, Tensor]:
    """Gather DeepSpeed's optimizer state, after at least one step. Every process must call this function.

    Returns:
        `exp_avg/NAME`, `exp_avg_sq/NAME` and `step/NAME` of every trainable parameter, on the CPU.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    _link(zero)
    step = next(iter(zero.optimizer.state.values()))["step"]
    tensors = {}
    for name, parameter in _trainable(task):
        for moment in MOMENTS:
            tensors[f"{moment}/{name}"] = safe_get_full_optimizer_state(parameter, moment).cpu().contiguous()
        tensors[f"step/{name}"] = step.detach().cpu().clone()
    return tensors


def load_moments(zero: Any, task: nn.Module, tensors: dict[str, Tensor]):
    """Load DeepSpeed's optimizer state, as `whole_moments` returns it, before the first step."""
    from deepspeed.utils import safe_set_full_optimizer_state

    step = next(value for key, value in tensors.items() if key.startswith("step/"))
    # DeepSpeed creates its state in the first step, so it is created here to be filled
    for part in zero.single_partition_of_fp32_groups:
        moments = {moment: torch.zeros_like(part) for moment in MOMENTS}
        zero.optimizer.state[part] = {"step": step.clone()} | moments
    _link(zero)
    for name, parameter in _trainable(task):
        for moment in MOMENTS:
            if (value := tensors.get(f"{moment}/{name}")) is not None:  # parameters that no loss reaches have none
                safe_set_full_optimizer_state(parameter, value.to(parameter.device), moment)


def _link(zero: Any):
    """Link every parameter to its moments. DeepSpeed does so only once, after the step of its first parameter group,
    when the other groups have no moments yet.
    """
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    for parameters, part in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        lazy_init_hp_params_optimizer_state(parameters, part, zero.optimizer.state)


def _trainable(task: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in task.named_parameters() if parameter.requires_grad]
