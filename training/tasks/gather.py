"""Exact large batches: all processes' samples in one loss, and gradient caching in chunks on each.

A contrastive loss compares every image with every caption, so a batch in parts is not the same as the batch. Here
the parts are towers' passes alone, and the loss sees everything: n processes, or n chunks, or both, give the loss and
the gradients of one process with the whole batch, up to rounding. What cannot be split is BatchNorm in train mode,
whose statistics are a part's own.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PAIR_FIELDS = ("rows", "owner", "caption_ids", "language")  # of a batch; they decide which pairs are right


class _Gather(torch.autograd.Function):
    """Every process computes the same loss from the same embeddings, so the gradient of its own part is complete as
    it stands, and nothing is sent on the way back. DDP then takes the *mean* of the processes' gradients where their
    sum is meant: each part's is made larger by their number. What stands outside the gathered tensors, such as the
    logit scale, has the same gradient everywhere, of which the mean is right.
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
    """All processes' rows, in the order of the processes.

    Args:
        tensor: (N, ...) of any dtype; N may differ between processes.

    Returns:
        (sum of all N, ...); the tensor itself where there is one process. Its gradient is scaled for DDP, which
        averages: see the loss as one and the same on every process, and the parameters' gradients are its own.

    Requirements: every process calls it as often, and goes on to the same loss.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    return _Gather.apply(tensor, _sizes(tensor))


def _sizes(tensor: Tensor) -> list[int]:
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=tensor.device)
    sizes[dist.get_rank()] = len(tensor)
    dist.all_reduce(sizes)
    return sizes.tolist()


def gather_pairs(batch: dict[str, Any]) -> dict[str, Tensor]:
    """The fields of all processes' batches that decide which pairs are right; `owner` counts through all images."""
    fields = {name: batch[name] for name in PAIR_FIELDS}
    if dist.is_initialized() and dist.get_world_size() > 1:
        fields["owner"] = fields["owner"] + sum(_sizes(batch["rows"])[: dist.get_rank()])
    return {name: gather(value) for name, value in fields.items()}
