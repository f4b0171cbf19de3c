"""What both stages share: the student, the augmentation of its images, which of its parameters are trained, and one
loss over a batch that is spread over processes and chunks.

A contrastive loss compares every image with every caption, so the mean of the losses of parts is not the loss of the
batch. Here only the towers run on parts, and the loss is computed on all embeddings: n processes (`gather`), or n
chunks (gradient caching, `forward_backward`), or both, give the loss and the gradients of one process with the whole
batch, up to rounding. The exception is BatchNorm in train mode, whose statistics come from one part.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.data.batch import Batch
from training.data.images import Augment, Normalize
from training.teachers import TOWERS
from training.teachers.targets import TargetSource, encode_by_length, text_chunk


class Task(nn.Module):
    """Base class of the two stages.

    Args:
        student: Model that is trained.
        augment: Augmentation of the images.
        normalize: Normalization with the student's mean and standard deviation.
        targets: Distillation targets; None without a teacher. Not a submodule, because the teacher is not trained.
        learning: Prefixes of the student's parameters that are trained.
        frozen: Names of parameters, or of layers, among these that are not trained.

    Raises:
        ValueError: No parameter has one of the names in `frozen`.
    """

    chunk_size = 0  # images encoded at once by tasks that can be split; 0 for the whole batch
    towers: tuple[str, ...] = TOWERS  # towers whose targets the task compares with
    teacher_revision: str | None = None  # compared when a run resumes
    teacher_rotation: str | None = (
        None  # digest of the rotation of a teacher that is a rotated student
    )

    def __init__(
        self,
        student: DCCLIPModel,
        augment: Augment,
        normalize: Normalize,
        targets: TargetSource | None,
        learning: tuple[str, ...],
        frozen: list[str],
    ):
        super().__init__()
        self.student, self.augment, self.normalize, self.targets = (
            student,
            augment,
            normalize,
            targets,
        )
        # whole names, so that `layers.1` does not freeze `layers.10`
        self.learning, self.frozen = (
            learning,
            tuple(f"{name.removesuffix('.')}." for name in frozen),
        )
        names = [name for name, _ in student.named_parameters()]
        for given, prefix in zip(frozen, self.frozen, strict=True):
            if not any(f"{name}.".startswith(prefix) for name in names):
                raise ValueError(
                    f"freeze: {given!r} is not a parameter or layer of the student. Give a name such as "
                    f"{names[1]!r}, or its beginning up to a dot."
                )
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(self.learns(name))
        if not any(parameter.requires_grad for parameter in student.parameters()):
            raise ValueError(
                f"freeze: {', '.join(frozen)} freezes every parameter, so nothing would be learned. Remove a name."
            )

    def learns(self, name: str) -> bool:
        """Whether a parameter or layer of the student is trained."""
        return name.startswith(self.learning) and not f"{name}.".startswith(self.frozen)

    def train(self, mode: bool = True) -> "Task":
        """Set train mode as in torch, but layers that are not trained stay in eval mode, without dropout."""
        super().train(mode)
        for name, module in self.student.named_modules():
            parameters = (
                [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
                if name
                else []
            )
            is_frozen = bool(parameters) and not any(map(self.learns, parameters))
            if is_frozen or (_is_batch_norm(module) and not self.updates_statistics(name)):
                module.eval()
        return self

    def updates_statistics(self, name: str) -> bool:
        """Whether a BatchNorm layer updates its statistics in train mode."""
        return self.learns(name)

    @property
    def follows_batches(self) -> bool:
        """Whether any BatchNorm layer updates its statistics, so that a split batch does not equal the batch."""
        return any(
            self.updates_statistics(name)
            for name, module in self.student.named_modules()
            if _is_batch_norm(module)
        )

    @property
    def num_views(self) -> int:
        """Number of views of an image that take turns; 0 if every epoch draws new views."""
        return self.targets.num_views if self.targets is not None else 0

    def augmented_images(self, batch: Batch) -> Tensor:
        """The augmented images of a batch, (B, 3, S, S), 0..255."""
        images = batch["images"]
        views = batch.get("views") or self.augment.views(batch["rows"], batch["view_ids"])
        return self.augment(images, views.to(images.device))

    @property
    def widths(self) -> list[int]:
        """Numbers of leading dimensions at which embeddings are compared, ascending; the last one is all of them."""
        config = self.student.config
        return [
            *(width for width in config.prefixes if width < config.projection_dim),
            config.projection_dim,
        ]

    def teacher_embeddings(self, batch: Batch) -> dict[str, Tensor]:
        """The teacher's embeddings of a batch by tower, (B, D) and (T, D), in the teacher's own space."""
        embeddings: dict[str, Tensor] = {}
        if self.targets is not None and "vision" in self.towers:
            embeddings["vision"] = self.targets.images(
                self.augmented_images(batch), batch
            ).embedding
        if self.targets is not None and "text" in self.towers:
            embeddings["text"] = self.targets.texts(batch).embedding
        return embeddings

    def to_student_space(self, embeddings: Tensor) -> Tensor:
        """Rotate the teacher's embeddings as the student's space is rotated, unless the teacher has the same rotation.

        Args:
            embeddings: Embeddings of the teacher, (N, D).

        Returns:
            (N, D) float32.
        """
        if self.student.config.rotation in (None, self.teacher_rotation):
            return embeddings.float()
        with torch.autocast(embeddings.device.type, enabled=False):
            return embeddings.float() @ self.student.get_buffer("rotation")

    def encode_texts(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encode the captions of a batch, in chunks of similar length.

        Returns:
            Token states (T, L, text_width), zero beyond the longest caption of a chunk, and embeddings
            (T, projection_dim).
        """
        input_ids, mask = batch["input_ids"], batch["attention_mask"]
        lengths = mask.sum(1)

        def encode(indices: Tensor) -> tuple[Tensor, Tensor]:
            length = int(lengths[indices[-1]])  # the last caption of a chunk is its longest
            outputs = self.student.get_text_features(
                input_ids[indices, :length], mask[indices, :length]
            )
            excess = input_ids.shape[1] - length
            return nn.functional.pad(
                outputs.last_hidden_state, (0, 0, 0, excess)
            ), outputs.pooler_output

        states, embeddings = encode_by_length(lengths, text_chunk(lengths.device), encode)
        return states, embeddings

    def before_batch(self, number: int):
        """Hook that the training loop calls before each batch of a run, with its number; the same on all processes."""

    def after_step(self):
        """Hook that the training loop calls after each optimizer step."""


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


# fields of a batch with one row per image; all others: per caption
IMAGE_FIELDS = ("rows", "sources", "view_ids", "views", "images")

Pass = tuple[dict[str, Tensor], Callable[[], None]]


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

    Returns:
        The fields of all processes; `owner` is an index into the images of all processes.
    """
    fields = {name: batch[name] for name in ("rows", "owner", "caption_ids", "language")}
    if dist.is_initialized() and dist.get_world_size() > 1:
        fields["owner"] = fields["owner"] + sum(_sizes(batch["rows"])[: dist.get_rank()])
    return cast(Batch, {name: gather(value) for name, value in fields.items()})


def scalar(value: Any, name: str) -> Tensor:
    """The value of the loss `name`; ValueError if it is not a scalar tensor."""
    if not isinstance(value, Tensor) or value.ndim:
        found = (
            f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        )
        raise ValueError(
            f"the loss {name!r} returned {found}, expected a scalar tensor. Change its function."
        )
    return value


def split_batch(batch: Batch, chunk_size: int) -> list[Batch]:
    """Split a batch into chunks of images, each with its own captions.

    Args:
        batch: Batch from the data loader, with the captions in the order of their images.
        chunk_size: Number of images in a chunk, at least 1; the last chunk may have fewer.
    """
    owner, num_images = batch["owner"], len(batch["rows"])
    # number of captions per image, (B,), summed over the images of each chunk
    counts = [int(part.sum()) for part in owner.bincount(minlength=num_images).split(chunk_size)]
    fields = cast(dict[str, Tensor], batch)
    pieces = {
        name: value.split(chunk_size if name in IMAGE_FIELDS else counts)
        for name, value in fields.items()
    }
    chunks = [
        {name: piece[number] for name, piece in pieces.items()} for number in range(len(counts))
    ]
    for number, chunk in enumerate(chunks):
        chunk["owner"] = chunk["owner"] - number * chunk_size
    return cast(list[Batch], chunks)


@contextmanager
def sync_on_last(accelerator: Accelerator, model: nn.Module, is_last: bool) -> Iterator[None]:
    """One of several forward and backward passes of a step; the processes exchange gradients only in the last one.

    The contexts can be nested. An inner pass is then the last of its step only if both are.
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
        task: The same task, not wrapped. With a `chunk_size` it has the methods `teacher_outputs` and `compute_losses`
            of `AlignTask`, and `model(batch, encode_only=True)` returns the student's outputs with gradient.
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


def _chunked(
    model: nn.Module, task: Any, batch: Batch, accelerator: Accelerator, loss_weight: float
) -> Pass:
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
    outputs = {
        name: value.detach().requires_grad_() for name, value in _concatenate(student).items()
    }
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
                loss = sum(
                    (value * chunk_gradients[name][number]).sum() for name, value in encoded.items()
                )
                accelerator.backward(loss_weight * loss)

    return {name: value.detach() for name, value in losses.items()}, backward


def _concatenate(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Embeddings of all chunks, (n, D) each, to (N, D); a scalar is the same in every chunk."""
    return {
        name: torch.cat([part[name] for part in parts]) if value.ndim else value
        for name, value in parts[0].items()
    }


def _split_gradient(gradient: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """The gradient (N, D) of each chunk, (n, D); the gradient of a scalar goes to the last chunk."""
    if gradient.ndim:
        return list(gradient.split([len(part) for part in parts]))
    return [torch.zeros_like(gradient)] * (len(parts) - 1) + [gradient]
