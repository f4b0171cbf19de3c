"""Linear layers as 1x1 convolutions, which are faster on some CPUs."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class LinearAsConvolution(TorchFunctionMode):
    """Context manager that runs float32 linear layers on a CPU as 1x1 convolutions.

    PyTorch computes float32 matrix products with MKL, which can be slow on CPUs that are not made by Intel. It
    computes convolutions with oneDNN, which is fast on all of them. Results differ by rounding only.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace `torch.nn.functional.linear`; call every other function unchanged."""
        if func is F.linear and not kwargs and _is_eligible(*args[:2]):
            return _convolve(*args)
        return func(*args, **(kwargs or {}))


def _is_eligible(inputs: Tensor, weight: Tensor) -> bool:
    return inputs.device.type == "cpu" and inputs.dtype == weight.dtype == torch.float32 and inputs.ndim > 1


def _convolve(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = inputs.reshape(1, -1, 1, inputs.shape[-1]).permute(0, 3, 1, 2)  # (1, C, rows, 1), channels last
    outputs = F.conv2d(rows, weight[..., None, None], bias)
    return outputs.permute(0, 2, 3, 1).reshape(*inputs.shape[:-1], len(weight))
