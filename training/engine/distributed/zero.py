"""Optimizer state under DeepSpeed ZeRO 1 and 2, which shard it over the processes.

The state is saved as whole tensors by parameter name, as on one process, so that a run can resume with or without
DeepSpeed.
"""

from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's first and second moment


def zero_optimizer(optimizer: Any) -> Any | None:
    """DeepSpeed's optimizer inside the one that Accelerate returns; None without DeepSpeed."""
    inner = getattr(optimizer, "optimizer", None)
    return inner if hasattr(inner, "single_partition_of_fp32_groups") else None


def hold_scalars(optimizer: Any, task: nn.Module):
    """Copy scalar parameters that a task clamped after the step to DeepSpeed's own copies, which would overwrite them.

    Without DeepSpeed this function does nothing.

    Args:
        optimizer: Optimizer that Accelerate returned.
        task: Task with scalar parameters, such as the logit scale.
    """
    if zero_optimizer(optimizer) is None:
        return
    from deepspeed.utils import safe_set_full_fp32_param

    for _, parameter in _trainable(task):
        if parameter.ndim == 0:
            safe_set_full_fp32_param(parameter, parameter.detach().float())


def whole_moments(zero: Any, task: nn.Module) -> dict[str, Tensor]:
    """Gather the optimizer state. Every process must call this function.

    Args:
        zero: Return value of `zero_optimizer`, after at least one step.
        task: Task whose parameters are trained.

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
    """Load optimizer state on any number of processes.

    Args:
        zero: Return value of `zero_optimizer`, before its first step.
        task: Task whose parameters are trained.
        tensors: Tensors of the checkpoint, in the form of `whole_moments`.
    """
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
