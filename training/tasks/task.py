"""What both stages share: the student, its trained parameters, and one batch that is spread over processes and chunks.

A contrastive loss compares every image with every caption, so the mean of the losses of parts is not the loss of the
batch. Here only the towers run on parts, and the loss is computed on all embeddings: n processes (`gather`), or n
chunks (gradient caching, `forward_backward`), or both, give the loss and the gradients of one process with the whole
batch, up to rounding. The exception is BatchNorm in train mode, whose statistics come from one part.

Ids and lengths of a batch stay on the host (`batches_on`), and processes exchange them there, so a step never waits
for a GPU.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.modules.batchnorm import _BatchNorm

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import TrainingRecipe
from training.data import BatchPlan, Pairs, make_loader
from training.data.batch import Batch
from training.data.images import Augment, Normalize
from training.teachers import TOWERS, DualEncoder
from training.teachers.targets import TargetSource, encode_chunks
from training.utils.keys import keyed_uniform
from training.utils.process import new_host_group

# fields of a batch that are looked up and counted, but never encoded
HOST_FIELDS = (
    "rows",
    "sources",
    "view_ids",
    "owner",
    "caption_ids",
    "language",
    "lengths",
    "teacher_lengths",
)
# fields with one row per image; all others: per caption
IMAGE_FIELDS = ("rows", "sources", "view_ids", "views", "images", "image_targets", "image_maps")


@dataclass(frozen=True)
class Models:
    """Models of a stage.

    Args:
        student: Student to train.
        processor: Processor of the student.
        teacher: Teacher without its towers, which are loaded where they run; None trains without a teacher.
    """

    student: DCCLIPModel
    processor: DCCLIPProcessor
    teacher: DualEncoder | None


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

    seed = 0  # keys the draws, with the number of the batch
    batch_number = 0
    chunk_size = 0  # images encoded at once by tasks that can be split; 0 for the whole batch
    towers: tuple[str, ...] = TOWERS  # towers whose targets the task compares with
    teacher_revision: str | None = None  # compared when a run resumes
    teacher_rotation: str | None = None  # digest, of a teacher that is a rotated student
    freeze_batch_norm = False  # whether no BatchNorm layer updates its statistics

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
        self.student = student
        self.augment = augment
        self.normalize = normalize
        self.targets = targets
        self.learning = learning
        # whole names, so that `layers.1` does not freeze `layers.10`
        self.frozen = tuple(f"{name.removesuffix('.')}." for name in frozen)
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
        moving = self.moving_norms
        for name, module in self.student.named_modules():
            inner = [f"{name}.{each}".lstrip(".") for each, _ in module.named_parameters()]
            is_frozen = bool(inner) and not any(map(self.learns, inner))
            if is_frozen or (isinstance(module, _BatchNorm) and module not in moving):
                module.eval()
        return self

    @property
    def moving_norms(self) -> list[nn.Module]:
        """BatchNorm layers that update their statistics, so that a split batch differs from the whole."""
        return [
            module
            for name, module in self.student.named_modules()
            if isinstance(module, _BatchNorm) and self.learns(name) and not self.freeze_batch_norm
        ]

    @property
    def num_views(self) -> int:
        """Number of views of an image that take turns; 0 if every epoch draws new views."""
        return self.targets.num_views if self.targets is not None else 0

    def augmented(self, batch: Batch) -> Batch:
        """A batch with its random views in place of its images, (B, 3, S, S) float32 in 0..255."""
        if "images" not in batch:
            return batch
        images = batch["images"]
        views = batch.get("views") or self.augment.views(batch["rows"], batch["view_ids"])
        return batch | {"images": self.augment(images, views.to(images.device, non_blocking=True))}

    def on_device(self, numbers: Tensor) -> Tensor:
        """Copy numbers of the host to the student's device, without waiting for it."""
        return numbers.to(self.student.device, non_blocking=True)

    @property
    def widths(self) -> list[int]:
        """Numbers of leading dimensions at which embeddings are compared, ascending; the last one is all of them."""
        config = self.student.config
        return [
            *(width for width in config.prefixes if width < config.projection_dim),
            config.projection_dim,
        ]

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

    def encode_texts(
        self, input_ids: Tensor, attention_mask: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode texts in chunks of similar length.

        Args:
            input_ids: Token ids of the student, (T, L) int64.
            attention_mask: Mask, (T, L) int64, 1 for tokens and 0 for padding.
            lengths: Number of tokens of each text, (T,) int64, on the host.

        Returns:
            Token states (T, L, text_width), zero beyond the longest text of a chunk, and embeddings
            (T, projection_dim).
        """

        def encode(indices: Tensor, length: int) -> tuple[Tensor, Tensor]:
            outputs = self.student.get_text_features(
                input_ids[indices, :length], attention_mask[indices, :length]
            )
            excess = input_ids.shape[1] - length
            states = nn.functional.pad(outputs.last_hidden_state, (0, 0, 0, excess))
            return states, outputs.pooler_output

        states, embeddings = encode_chunks(lengths, encode, input_ids.device)
        return states, embeddings

    def before_batch(self, number: int):
        """Hook that the training loop calls before each batch of a run, with its number; the same on all processes."""
        self.batch_number = number

    def draw(self, population: int, count: int) -> Tensor:
        """Draw numbers without replacement, the same for all processes and all chunks of a batch.

        Returns:
            At most `count` numbers in 0..population - 1, int64, on the CPU.
        """
        draws = keyed_uniform(self.seed, self.batch_number, num=population)[0]
        return torch.from_numpy(draws.argsort()[:count].copy())

    def after_step(self):
        """Hook that the training loop calls after each optimizer step."""


def scalar(value: Any, name: str) -> Tensor:
    """The value of the loss `name`; ValueError if it is not a scalar tensor."""
    if not isinstance(value, Tensor) or value.ndim:
        raise ValueError(
            f"the loss {name!r} returned {value!r:.80}, expected a scalar tensor. Change its function."
        )
    return value


def batches_on(loader: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches with images and tokens on a device, without waiting for it. Ids and lengths stay on the host."""
    for batch in loader:
        moved = dict(cast(dict[str, Tensor], batch))
        for name in moved.keys() - HOST_FIELDS:
            moved[name] = moved[name].to(device, non_blocking=True)
        yield cast(Batch, moved)


def first_batches(
    task: Task, dataset: Pairs, recipe: TrainingRecipe, num_rows: int, device: torch.device
) -> Iterator[Batch]:
    """Batches of at least the first rows that a run sees, before augmentation; the same ones on all processes."""
    plan = BatchPlan(
        recipe.batch_size,
        recipe.seed,
        task.num_views,
        start=0,
        stop=math.ceil(num_rows / recipe.batch_size),
        augment=task.augment,
        read_targets=task.targets.read if task.targets is not None else None,
    )
    return batches_on(make_loader(dataset, plan), device)


def gather(tensor: Tensor, sizes: list[int]) -> Tensor:
    """Concatenate the rows of all processes, in the order of the processes.

    The loss of a batch is the mean of the losses that the processes compute. Each of them may depend on the embeddings
    of all, so the backward pass adds up the gradients of all processes. DDP then takes the mean of the parameters'
    gradients, as it does for parameters behind tensors that are not gathered, such as the logit scale.

    Args:
        tensor: Tensor of any dtype, (N, ...); N may differ between processes.
        sizes: N of each process.

    Returns:
        (sum of all N, ...); the tensor itself in a run with one process.

    Requirements: every process calls this function equally often, and computes a loss from each result.
    """
    if len(sizes) == 1:
        return tensor
    padding = tensor.new_zeros(max(sizes) - len(tensor), *tensor.shape[1:])
    parts = all_gather(torch.cat([tensor, padding]))
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def gather_on_host(value: Any) -> list[Any]:
    """A value of every process, in their order, without a device."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    world: Any = dist.group.WORLD
    on_host = dist.get_backend(world) == "gloo"
    dist.all_gather_object(
        values, value, group=world if on_host else new_host_group(world, "values")
    )
    return values


def split_batch(batch: Batch, chunk_size: int) -> list[Batch]:
    """Split a batch into chunks of images, each with its own captions.

    Args:
        batch: Batch from the data loader, with the captions in the order of their images.
        chunk_size: Number of images in a chunk, at least 1; the last chunk may have fewer.
    """
    # number of captions per image, (B,), summed over the images of each chunk
    per_image = np.bincount(batch["owner"].numpy(), minlength=len(batch["rows"]))
    counts = np.add.reduceat(per_image, range(0, len(per_image), chunk_size)).tolist()
    fields = cast(dict[str, Tensor], batch)
    chunks: list[dict[str, Tensor]] = [{} for _ in counts]
    for name, value in fields.items():
        parts = value.split(chunk_size if name in IMAGE_FIELDS else counts)
        for chunk, part in zip(chunks, parts, strict=True):
            chunk[name] = part
    for number, chunk in enumerate(chunks):
        chunk["owner"] = chunk["owner"] - number * chunk_size
    return cast(list[Batch], chunks)


def forward_backward(
    model: nn.Module, task: Any, batch: Batch, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Run the forward and backward pass of a batch, in chunks if the task's `chunk_size` is less than the batch.

    Args:
        model: Task as wrapped by the Accelerator.
        task: The same task, not wrapped. With a `chunk_size` it is an `AlignTask`.
        batch: Batch on the device, with augmented images.
        accelerator: Accelerator of this process.

    Returns:
        Losses by name, detached.
    """
    if 0 < task.chunk_size < len(batch["rows"]):
        losses = _chunked(model, task, batch, accelerator)
    else:
        with accelerator.autocast():
            losses = model(_kept_as_it_is(batch))
        accelerator.backward(losses["loss"])
    return {name: value.detach() for name, value in losses.items()}


def _chunked(
    model: nn.Module, task: Any, batch: Batch, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Forward and backward pass with the activations of one chunk in memory at a time.

    First, all chunks are encoded without a graph. The loss on all embeddings gives the gradients of the embeddings.
    Then each chunk is encoded again, and these gradients are propagated to the parameters. The last chunk also encodes
    the losses' own inputs. Each chunk has its own random seed, the same in both passes, so that dropout agrees.
    Gradients are exchanged with the last chunk only.

    Requirements: the same number of chunks on every process; no BatchNorm in train mode.

    Source: Gao et al., arXiv 2101.06983 (gradient caching).
    """
    chunks = split_batch(batch, task.chunk_size)
    last = len(chunks) - 1
    seeds = torch.randint(2**62, (len(chunks),)).tolist()
    with accelerator.autocast():
        teacher = _concatenate([task.teacher_outputs(chunk) for chunk in chunks])

    def encode(number: int) -> dict[str, Tensor]:
        torch.manual_seed(seeds[number])
        with accelerator.autocast():
            own_teacher = teacher if number == last else None
            chunk = _kept_as_it_is(chunks[number])
            return model(chunk, encode_only=True, own_teacher=own_teacher)

    with torch.no_grad():
        student = [encode(number) for number in range(len(chunks))]
    outputs = {
        name: value.detach().requires_grad_(value.is_floating_point())
        for name, value in _concatenate(student).items()
    }
    losses = task.compute_losses(outputs | teacher, batch)
    learned = {name: value for name, value in outputs.items() if value.requires_grad}
    found = torch.autograd.grad(losses["loss"], list(learned.values()), materialize_grads=True)
    gradients = dict(zip(learned, found, strict=True))
    done = dict.fromkeys(gradients, 0)  # rows of earlier chunks
    for number in range(len(chunks)):
        with nullcontext() if number == last else accelerator.no_sync(model):
            encoded = encode(number)
            parts = []
            for name, gradient in gradients.items():
                value = encoded.get(name)
                if value is not None and value.ndim:
                    rows = slice(done[name], done[name] + len(value))
                    parts.append((value * gradient[rows]).sum())
                    done[name] = rows.stop
                elif number == last:  # a scalar is the same in every chunk
                    parts.append(encoded[name] * gradient)
            # by the chain rule, this sum has the gradient of the loss
            accelerator.backward(sum(parts))
    return losses


def _kept_as_it_is(batch: Batch) -> Mapping[str, Tensor]:
    """A view of a batch that DistributedDataParallel passes on. It would move the ids of a dict to the device."""
    return MappingProxyType(cast(dict[str, Tensor], batch))


def _concatenate(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Outputs of all chunks, (n, ...) each, to (N, ...). A scalar is the same in every chunk. The last chunk may have
    further outputs.
    """
    outputs = dict(parts[-1])
    for name, value in outputs.items():
        if value.ndim and name in parts[0]:
            outputs[name] = torch.cat([part[name] for part in parts])
    return outputs
