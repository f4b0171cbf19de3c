"""Embeddings by one process or several, and the spaces in which those of two models can be compared."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor

from modeling_dcclip.runtime_dcclip import Lineage


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of images and texts by one model.

    Args:
        name: Name of the model, written to results.
        lineage: Where the embeddings come from.
        rotation: Rotation of its embeddings from its teacher's space, (D, D), if it has one.
        tensors: Embeddings by kind, images or texts of a set, (N, D) float32 each, L2-normalized.
    """

    name: str
    lineage: Lineage
    rotation: Tensor | None
    tensors: dict[Hashable, Tensor]

    @property
    def width(self) -> int:
        """Number of dimensions."""
        return next(iter(self.tensors.values())).shape[1]

    def truncated(self, width: int) -> "Embeddings":
        """The leading `width` dimensions; class embeddings are truncated after the mean over prompt templates.

        Raises:
            ValueError: The model has fewer dimensions.
        """
        if width > self.width:
            raise ValueError(
                f"widths: {width} is more than the {self.width} dimensions of {self.name!r}. Leave it out."
            )
        tensors = {
            key: F.normalize(tensor[:, :width], dim=-1) for key, tensor in self.tensors.items()
        }
        return replace(self, name=f"{self.name}, {width} dimensions", tensors=tensors)

    def comparable_with(self, other: "Embeddings") -> "Embeddings":
        """The same model in a space where it can be compared with a teacher, a student or another student of its
        teacher: its teacher's space, or its own if it is the teacher of the other model.

        Raises:
            ValueError: The embeddings differ in width.
        """
        if self.width != other.width:
            raise ValueError(
                f"text_model: {other.name!r} has embeddings of {other.width} dimensions, {self.name!r} of "
                f"{self.width}: they cannot be compared. Name a model with the same embedding space, such as its "
                "teacher."
            )
        # the teacher's own rotation leads away from the space that the student has learned
        shared = self.lineage.rotations(other.lineage)
        if self.rotation is None or (shared is not None and shared[0] is None):
            return self
        rotation = self.rotation.cpu()
        return replace(self, tensors={key: each @ rotation.T for key, each in self.tensors.items()})


def encode_shared(
    state: PartialState, count: int, encode: Callable[[Sequence[int]], Tensor | np.ndarray]
) -> Tensor:
    """Encode items by all processes: each encodes its share, and all of them get all embeddings.

    Args:
        state: State of this process among the others.
        count: Number of items, at least 1.
        encode: Function from the numbers of items to their embeddings, (n, D).

    Returns:
        (count, D) on the CPU.
    """
    # padded: all processes have as many, and some items are encoded twice
    with state.split_between_processes(list(range(count)), apply_padding=True) as numbers:
        own = torch.as_tensor(encode(numbers), device=state.device)
    order = gather(torch.tensor(numbers, device=state.device))
    embeddings = own.new_zeros(count, own.shape[1])
    embeddings[order] = gather(own.contiguous())
    return embeddings.cpu()
