"""The state of an optimizer under DeepSpeed (ZeRO 1 and 2), which keeps a part of it on every process: as whole
tensors, by parameter, as every other run has it.
"""

from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's


def zero_optimizer(optimizer: Any) -> Any | None:
    """DeepSpeed's own optimizer within the one that Accelerate gives; None without DeepSpeed."""
    inner = getattr(optimizer, "optimizer", None)
    return inner if hasattr(inner, "single_partition_of_fp32_groups") else None


def hold_scalars(optimizer: Any, task: nn.Module):
    """DeepSpeed moves copies of its own and writes them over the weights: what a task has clamped since the step goes
    into the copies. Without DeepSpeed, nothing is done.

    Args:
        optimizer: as Accelerate gives it.
        task: whose scalars, such as the logit scale, may have been clamped.
    """
    if zero_optimizer(optimizer) is None:
        return
    from deepspeed.utils import safe_set_full_fp32_param

    for _, parameter in _learning(task):
        if parameter.ndim == 0:
            safe_set_full_fp32_param(parameter, parameter.detach().float())


def whole_moments(zero: Any, task: nn.Module) -> dict[str, Tensor]:
    """`exp_avg/NAME`, `exp_avg_sq/NAME` and `step/NAME` of every parameter that learns, in memory of the CPU. Every
    process calls it, because the parts must be gathered.

    Args:
        zero: as `zero_optimizer` gives it, after at least one step.
        task: whose parameters it moves.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    _link(zero)
    step = next(iter(zero.optimizer.state.values()))["step"]
    tensors = {}
    for name, parameter in _learning(task):
        for moment in MOMENTS:
            tensors[f"{moment}/{name}"] = safe_get_full_optimizer_state(parameter, moment).cpu().contiguous()
        tensors[f"step/{name}"] = step.detach().cpu().clone()
    return tensors


def load_moments(zero: Any, task: nn.Module, tensors: dict[str, Tensor]):
    """Put back what `whole_moments` gave, on any number of processes.

    Args:
        zero: before its first step.
        task: whose parameters it moves.
        tensors: of the checkpoint.
    """
    from deepspeed.utils import safe_set_full_optimizer_state

    step = next(value for key, value in tensors.items() if key.startswith("step/"))
    # it makes its state in the first step, and there is nothing to fill before
    for part in zero.single_partition_of_fp32_groups:
        moments = {moment: torch.zeros_like(part) for moment in MOMENTS}
        zero.optimizer.state[part] = {"step": step.clone()} | moments
    _link(zero)
    for name, parameter in _learning(task):
        for moment in MOMENTS:
            if (value := tensors.get(f"{moment}/{name}")) is not None:  # what no loss reached has none
                safe_set_full_optimizer_state(parameter, value.to(parameter.device), moment)


def _link(zero: Any):
    """Tell every parameter where its moments lie. DeepSpeed does so once, after the step of its first group, when the
    others have none yet.
    """
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    for parameters, part in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        lazy_init_hp_params_optimizer_state(parameters, part, zero.optimizer.state)


def _learning(task: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in task.named_parameters() if parameter.requires_grad]
