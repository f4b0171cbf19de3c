"""What both stages share: the student, the augmentation of its images, which of its parameters are trained, and inputs
that a loss brings along.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import AlignRecipe
from training.data.batch import Batch
from training.data.images import Augment, Normalize
from training.teachers import TOWERS, DualEncoder
from training.teachers.targets import TargetSource, encode_chunks
from training.utils.keys import keyed_uniform


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


class OwnInputs(nn.Module):
    """A loss with texts or images of its own, beyond the batch.

    It is called with `LossInputs` and returns its value as a function of `LOSSES` does.

    Args:
        tensors: Tensors by name. They are buffers that are not saved, and move to the device with the task.
    """

    def __init__(self, **tensors: Tensor | None):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    @classmethod
    def prepare(
        cls, recipe: AlignRecipe, models: Models, targets: TargetSource, device: torch.device
    ) -> "OwnInputs":
        """Make the inputs once, before training.

        Args:
            recipe: Recipe of stage 2, whose weight of this loss is not 0.
            models: Student, processor and teacher.
            targets: Distillation targets of the run.
            device: Device that the teacher runs on.
        """
        raise NotImplementedError

    def encode(self, task: Task, teacher: dict[str, Tensor]) -> dict[str, Tensor]:
        """Encode the inputs of a step with the student, and return float32 tensors by name for `LossInputs.extra`.

        With gradient caching it is called twice for a batch and must draw the same inputs, such as by `task.draw`.
        All processes return the same names; their rows are concatenated.

        Args:
            task: Task with the student.
            teacher: The teacher's outputs of all images of this process, as `AlignTask.teacher_outputs` returns them.
        """
        raise NotImplementedError


def scalar(value: Any, name: str) -> Tensor:
    """The value of the loss `name`; ValueError if it is not a scalar tensor."""
    if not isinstance(value, Tensor) or value.ndim:
        raise ValueError(
            f"the loss {name!r} returned {value!r:.80}, expected a scalar tensor. Change its function."
        )
    return value
