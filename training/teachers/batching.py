"""Encode texts in batches of similar length, which saves padding."""

from collections.abc import Callable

import torch
from torch import Tensor

CPU_CHUNK, GPU_CHUNK = 32, 512  # a CPU pays for every padded token, a GPU for every small batch


def text_chunk(device: torch.device) -> int:
    """Number of texts of a training batch that are encoded at once.

    Args:
        device: Device of the texts.
    """
    return CPU_CHUNK if device.type == "cpu" else GPU_CHUNK


def encode_by_length(
    lengths: Tensor, batch_size: int, encode: Callable[[Tensor], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Encode texts from short to long, and return the results in the order of the texts.

    Args:
        lengths: Length of each text in tokens or characters, (N,) int64, N at least 1.
        batch_size: Number of texts in a batch.
        encode: Function that encodes some texts: their indices, (n,) int64, shortest first, to tensors (n, ...).

    Returns:
        The tensors of all batches, (N, ...), in the order of the texts.
    """
    order = lengths.argsort(stable=True)
    batches = [encode(indices) for indices in order.split(batch_size)]
    inverse = order.argsort()
    return tuple(torch.cat(parts)[inverse] for parts in zip(*batches, strict=True))
