"""Embeddings of all processes in one loss.

A contrastive loss compares every image with every caption, so the mean of the losses of parts is not the loss of the
batch. Here only the towers run on parts, and the loss is computed on all embeddings: n processes, or n chunks (see
`grad_cache.py`), or both, give the loss and the gradients of one process with the whole batch, up to rounding. The
exception is BatchNorm in train mode, whose statistics are those of a part.
"""

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from training.data.batch import Batch


class _Gather(torch.autograd.Function):
    """Concatenates the tensors of all processes.

    Every process computes the same loss from the same embeddings, so the gradient of its own part is already complete,
    and the backward pass sends nothing. DDP takes the mean of the processes' gradients, but their sum is needed, so
    each gradient is multiplied by the number of processes. Tensors that are not gathered, such as the logit scale,
    have the same gradient on every process, and its mean is correct.
    """

    @staticmethod
    def forward(ctx, tensor: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.split(ctx.sizes)[dist.get_rank()] * len(ctx.sizes), None


def gather(tensor: Tensor) -> Tensor:
    """Concatenate the rows of all processes, in the order of the processes.

    Args:
        tensor: Tensor of any dtype, (N, ...); N may differ between processes.

    Returns:
        (sum of all N, ...); the tensor itself in a run with one process. Gradients are scaled for DDP, which averages
        them: if every process computes the same loss, its parameters get the gradients of that loss.

    Requirements: every process calls this function equally often, and computes the same loss from the result.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    return _Gather.apply(tensor, _sizes(tensor))


def _sizes(tensor: Tensor) -> list[int]:
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=tensor.device)
    sizes[dist.get_rank()] = len(tensor)
    dist.all_reduce(sizes)
    return sizes.tolist()


def gather_pairs(batch: Batch) -> Batch:
    """Gather the fields that determine the matching pairs: `rows`, `owner`, `caption_ids` and `language`.

    Args:
        batch: Batch of this process.

    Returns:
        The fields of all processes; `owner` is an index into the images of all processes.
    """
    fields = {
        "rows": batch["rows"],
        "owner": batch["owner"],
        "caption_ids": batch["caption_ids"],
        "language": batch["language"],
    }
    if dist.is_initialized() and dist.get_world_size() > 1:
        fields["owner"] = fields["owner"] + sum(_sizes(batch["rows"])[: dist.get_rank()])
    return cast(Batch, {name: gather(value) for name, value in fields.items()})
