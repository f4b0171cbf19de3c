"""Encode texts in batches of similar length, which saves padding."""

from collections.abc import Callable

import torch
from torch import Tensor

TEXT_CHUNK = 32  # texts of a training batch that are encoded at once


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
