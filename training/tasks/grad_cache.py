"""Gradient caching: the loss and the gradients of a whole batch, with the activations of one chunk in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

IMAGE_FIELDS = ("rows", "view_ids", "images")  # of a batch; all others are about its captions

Pass = tuple[dict[str, Tensor], Callable[[], None]]


class Splittable(Protocol):
    """A task whose loss is a function of embeddings, so that it can be computed in chunks. It is a module, too; with
    `encode_only` its forward pass returns what the student gives for a batch, with gradient: (B, D) or (T, D)
    embeddings and scalars, such as the logit scale, by name.
    """

    chunk_size: int

    def answers(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """What the teacher gives for a batch, by other names; nothing without a teacher."""

    def compare(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses by name from all that student and teacher gave; `loss` is their weighted sum."""


def split_batch(batch: dict[str, Any], chunk_size: int) -> list[dict[str, Tensor]]:
    """Batches of `chunk_size` images or fewer, each with its own captions.

    Args:
        batch: as the data make it.
        chunk_size: at least 1.

    Raises:
        ValueError: captions do not stand in the order of their images.
    """
    owner, num_images = batch["owner"], len(batch["rows"])
    if (owner.diff() < 0).any():
        raise ValueError(f"owner: captions must stand in the order of their images, got {owner.tolist()}.")
    counts = [int(part.sum()) for part in owner.bincount(minlength=num_images).split(chunk_size)]
    pieces = {name: value.split(chunk_size if name in IMAGE_FIELDS else counts) for name, value in batch.items()}
    chunks = [{name: piece[number] for name, piece in pieces.items()} for number in range(len(counts))]
    for number, chunk in enumerate(chunks):
        chunk["owner"] = chunk["owner"] - number * chunk_size
    return chunks


@contextmanager
def sync_on_last(accelerator: Accelerator, model: nn.Module, is_last: bool) -> Iterator[None]:
    """A forward and backward pass, of which a step has several: the processes exchange gradients in the last alone.
    One within another is the last only if both are.

    Args:
        accelerator: of this process; DeepSpeed also steps in the last pass.
        model: the task as the Accelerator wraps it.
        is_last: of its step.
    """
    outer = accelerator.sync_gradients
    accelerator.sync_gradients = is_last and outer
    try:
        with nullcontext() if accelerator.sync_gradients else accelerator.no_sync(model):
            yield
    finally:
        accelerator.sync_gradients = outer


def whole_pass(
    model: nn.Module, task: nn.Module, batch: dict[str, Any], accelerator: Accelerator, share: float = 1.0
) -> Pass:
    """Forward and backward of a whole batch at once.

    Args:
        model: the task as the Accelerator wraps it.
        task: unused; the task itself.
        batch: on the device.
        accelerator: of this process.
        share: of this batch in the loss of its step.

    Returns:
        Losses by name, and what makes their gradients.
    """
    with accelerator.autocast():
        losses = model(batch)
    return losses, lambda: accelerator.backward(share * losses["loss"])


def cached_pass(
    model: nn.Module, task: Splittable, batch: dict[str, Any], accelerator: Accelerator, share: float = 1.0
) -> Pass:
    """Forward and backward of a whole batch, with the activations of one chunk in memory at a time.

    The chunks are encoded without a graph; the loss of all embeddings gives their gradients; the chunks are encoded
    again, one at a time, to carry these on to the parameters. Each chunk has a random state of its own, the same
    both times, so that dropout agrees.

    Args:
        model: the task as the Accelerator wraps it; gradients are exchanged with the last chunk alone.
        task: the task itself.
        batch: on the device.
        accelerator: of this process.
        share: of this batch in the loss of its step.

    Returns:
        Losses by name, and what makes their gradients.

    Requirements: as many chunks on every process; no BatchNorm in train mode.

    Source: Gao et al., arXiv 2101.06983 (gradient caching).
    """
    chunks = split_batch(batch, task.chunk_size)
    seeds = torch.randint(2**62, (len(chunks),)).tolist()
    student: list[dict[str, Tensor]] = []
    teacher: list[dict[str, Tensor]] = []
    for chunk, seed in zip(chunks, seeds, strict=True):
        torch.manual_seed(seed)
        with torch.no_grad(), accelerator.autocast():
            student.append(model(chunk, encode_only=True))
            teacher.append(task.answers(chunk))
    outputs = {name: value.detach().requires_grad_() for name, value in _join(student).items()}
    losses = task.compare(outputs | _join(teacher), batch)
    gradients = torch.autograd.grad(losses["loss"], list(outputs.values()), materialize_grads=True)
    shares = {
        name: _share(gradient, [part[name] for part in student])
        for name, gradient in zip(outputs, gradients, strict=True)
    }

    def backward():
        last = len(chunks) - 1
        for number, (chunk, seed) in enumerate(zip(chunks, seeds, strict=True)):
            with sync_on_last(accelerator, model, number == last):
                torch.manual_seed(seed)
                with accelerator.autocast():
                    again = model(chunk, encode_only=True)
                # its gradient is the loss's own, by the chain rule
                loss = sum((value * shares[name][number]).sum() for name, value in again.items())
                accelerator.backward(share * loss)

    return {name: value.detach() for name, value in losses.items()}, backward


def _join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Embeddings end to end; a scalar is the same in every part."""
    return {
        name: torch.cat([part[name] for part in parts]) if value.ndim else value for name, value in parts[0].items()
    }


def _share(gradient: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """The gradient of each part; that of a scalar goes with the last."""
    if gradient.ndim:
        return list(gradient.split([len(part) for part in parts]))
    return [torch.zeros_like(gradient)] * (len(parts) - 1) + [gradient]
