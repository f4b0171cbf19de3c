"""Gradient caching: the loss and the gradients of a whole batch, with the activations of one chunk in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.data.batch import Batch

# fields of a batch with one row per image; all others: per caption
IMAGE_FIELDS = ("rows", "sources", "view_ids", "images")

Pass = tuple[dict[str, Tensor], Callable[[], None]]


class Splittable(Protocol):
    """A task whose loss is a function of embeddings, so that it can be computed in chunks.

    It is also a module. With `encode_only`, its forward pass returns the student's outputs for a batch, with gradient:
    embeddings (B, D) or (T, D), and scalars such as the logit scale, by name. `chunk_size` is the number of images in
    a chunk; 0 for the whole batch.
    """

    chunk_size: int

    def teacher_outputs(self, batch: Batch) -> dict[str, Tensor]:
        """The teacher's outputs for a batch, under other names; nothing without a teacher."""

    def compute_losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Losses by name.

        Args:
            outputs: Outputs of student and teacher for the whole batch.
            batch: The whole batch.

        Returns:
            Losses by name; `loss` is their weighted sum.
        """


def split_batch(batch: Batch, chunk_size: int) -> list[Batch]:
    """Split a batch into chunks of images, each with its own captions.

    Args:
        batch: Batch from the data loader.
        chunk_size: Number of images in a chunk, at least 1; the last chunk may have fewer.

    Raises:
        ValueError: The captions are not in the order of their images.
    """
    owner, num_images = batch["owner"], len(batch["rows"])
    if (owner.diff() < 0).any():
        raise ValueError(f"owner: captions must be in the order of their images, got {owner.tolist()}.")
    # number of captions per image, (B,), summed over the images of each chunk
    counts = [int(part.sum()) for part in owner.bincount(minlength=num_images).split(chunk_size)]
    fields = cast(dict[str, Tensor], batch)
    pieces = {name: value.split(chunk_size if name in IMAGE_FIELDS else counts) for name, value in fields.items()}
    chunks = [{name: piece[number] for name, piece in pieces.items()} for number in range(len(counts))]
    for number, chunk in enumerate(chunks):
        chunk["owner"] = chunk["owner"] - number * chunk_size
    return cast(list[Batch], chunks)


@contextmanager
def sync_on_last(accelerator: Accelerator, model: nn.Module, is_last: bool) -> Iterator[None]:
    """One of several forward and backward passes of a step; the processes exchange gradients only in the last one.

    The contexts can be nested. An inner pass is then the last of its step only if both are.

    Args:
        accelerator: Accelerator of this process. DeepSpeed also takes the optimizer step in the last pass.
        model: Task as wrapped by the Accelerator.
        is_last: Whether this is the last pass.
    """
    outer = accelerator.sync_gradients
    accelerator.sync_gradients = is_last and outer
    try:
        with nullcontext() if accelerator.sync_gradients else accelerator.no_sync(model):
            yield
    finally:
        accelerator.sync_gradients = outer


def forward_backward(
    model: nn.Module, task: Any, batch: Batch, accelerator: Accelerator, loss_weight: float = 1.0
) -> Pass:
    """Losses of a batch, and its backward pass; in chunks if the task's `chunk_size` is less than the batch.

    Args:
        model: Task as wrapped by the Accelerator.
        task: The same task, not wrapped. With a `chunk_size` it is `Splittable`.
        batch: Batch on the device.
        accelerator: Accelerator of this process.
        loss_weight: Weight of this batch in the loss of its step, 0..1.

    Returns:
        Losses by name, and a function without arguments that runs the backward pass.
    """
    if 0 < task.chunk_size < len(batch["rows"]):
        return _chunked(model, task, batch, accelerator, loss_weight)
    with accelerator.autocast():
        losses = model(batch)
    return losses, lambda: accelerator.backward(loss_weight * losses["loss"])


def _chunked(model: nn.Module, task: Splittable, batch: Batch, accelerator: Accelerator, loss_weight: float) -> Pass:
    """Forward and backward pass with the activations of one chunk in memory at a time.

    First, all chunks are encoded without a graph. The loss on all embeddings gives the gradients of the embeddings.
    Then each chunk is encoded again, and these gradients are propagated to the parameters. Each chunk has its own
    random seed, the same in both passes, so that dropout agrees. Gradients are exchanged with the last chunk only.

    Requirements: the same number of chunks on every process; no BatchNorm in train mode.

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
            teacher.append(task.teacher_outputs(chunk))
    outputs = {name: value.detach().requires_grad_() for name, value in _concatenate(student).items()}
    losses = task.compute_losses(outputs | _concatenate(teacher), batch)
    gradients = torch.autograd.grad(losses["loss"], list(outputs.values()), materialize_grads=True)
    chunk_gradients = {
        name: _split_gradient(gradient, [part[name] for part in student])
        for name, gradient in zip(outputs, gradients, strict=True)
    }

    def backward():
        last = len(chunks) - 1
        for number, (chunk, seed) in enumerate(zip(chunks, seeds, strict=True)):
            with sync_on_last(accelerator, model, number == last):
                torch.manual_seed(seed)
                with accelerator.autocast():
                    encoded = model(chunk, encode_only=True)
                # by the chain rule, this sum has the gradient of the loss
                loss = sum((value * chunk_gradients[name][number]).sum() for name, value in encoded.items())
                accelerator.backward(loss_weight * loss)

    return {name: value.detach() for name, value in losses.items()}, backward


def _concatenate(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Embeddings of all chunks, (n, D) each, to (N, D); a scalar is the same in every chunk."""
    return {
        name: torch.cat([part[name] for part in parts]) if value.ndim else value for name, value in parts[0].items()
    }


def _split_gradient(gradient: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """The gradient (N, D) of each chunk, (n, D); the gradient of a scalar goes to the last chunk."""
    if gradient.ndim:
        return list(gradient.split([len(part) for part in parts]))
    return [torch.zeros_like(gradient)] * (len(parts) - 1) + [gradient]
