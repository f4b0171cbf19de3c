"""What both stages share: the student, the augmentation of its images, and which of its parameters are trained."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.data.batch import Batch
from training.data.transforms import Augment, Normalize
from training.teachers import TOWERS
from training.teachers.targets import TargetSource, encode_by_length, text_chunk


class Task(nn.Module):
    """Base class of the two stages.

    Args:
        student: Model that is trained.
        augment: Augmentation of the images.
        normalize: Normalization with the student's mean and standard deviation.
        targets: Distillation targets; None without a teacher. Not a submodule, because teachers are not trained.
        learning: Prefixes of the student's parameters that are trained.
        frozen: Names of parameters, or of layers, among these that are not trained.

    Raises:
        ValueError: No parameter has one of the names in `frozen`.
    """

    chunk_size = 0  # images encoded at once by tasks that can be split; 0 for the whole batch
    towers: tuple[str, ...] = TOWERS  # towers whose targets the task compares with
    teacher_revisions: Sequence[str] = ()  # compared when a run resumes
    teacher_rotation: str | None = None  # digest of the rotation of a teacher that is a rotated student

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
        self.student, self.augment, self.normalize, self.targets = student, augment, normalize, targets
        # whole names, so that `layers.1` does not freeze `layers.10`
        self.learning, self.frozen = learning, tuple(f"{name.removesuffix('.')}." for name in frozen)
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
        """Whether a parameter or layer of the student is trained.

        Args:
            name: Name of the parameter or layer in the student.
        """
        return name.startswith(self.learning) and not f"{name}.".startswith(self.frozen)

    def train(self, mode: bool = True) -> "Task":
        """Set train mode as in torch, but layers that are not trained stay in eval mode, without dropout."""
        super().train(mode)
        for name, module in self.student.named_modules():
            parameters = [f"{name}.{parameter}" for parameter, _ in module.named_parameters()] if name else []
            is_frozen = bool(parameters) and not any(map(self.learns, parameters))
            if is_frozen or (_is_batch_norm(module) and not self.updates_statistics(name)):
                module.eval()
        return self

    def updates_statistics(self, name: str) -> bool:
        """Whether a BatchNorm layer updates its statistics in train mode.

        Args:
            name: Name of the layer in the student.
        """
        return self.learns(name)

    @property
    def follows_batches(self) -> bool:
        """Whether any BatchNorm layer updates its statistics, so that a split batch does not equal the batch."""
        return any(
            self.updates_statistics(name) for name, module in self.student.named_modules() if _is_batch_norm(module)
        )

    @property
    def num_views(self) -> int:
        """Number of views of an image that take turns; 0 if every epoch draws new views."""
        return self.targets.num_views if self.targets is not None else 0

    def augmented_images(self, batch: Batch) -> Tensor:
        """The augmented images of a batch, (B, 3, S, S), 0..255."""
        return self.augment(batch["images"], batch["rows"], batch["view_ids"])

    @property
    def widths(self) -> list[int]:
        """Numbers of leading dimensions at which embeddings are compared, ascending; the last one is all of them."""
        config = self.student.config
        return [*(width for width in config.prefixes if width < config.projection_dim), config.projection_dim]

    def teacher_embeddings(self, batch: Batch) -> dict[str, Tensor]:
        """The teacher's embeddings of a batch by tower, (B, D) and (T, D), in the teacher's own space.

        Args:
            batch: Batch on the device.
        """
        embeddings: dict[str, Tensor] = {}
        if self.targets is not None and "vision" in self.towers:
            embeddings["vision"] = self.targets.images(self.augmented_images(batch), batch).embedding
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
            outputs = self.student.get_text_features(input_ids[indices, :length], mask[indices, :length])
            excess = input_ids.shape[1] - length
            return nn.functional.pad(outputs.last_hidden_state, (0, 0, 0, excess)), outputs.pooler_output

        states, embeddings = encode_by_length(lengths, text_chunk(lengths.device), encode)
        return states, embeddings

    def before_batch(self, number: int):
        """Hook that the training loop calls before each batch.

        Args:
            number: Number of the batch in the run, from 0; the same on all processes.
        """

    def after_step(self):
        """Hook that the training loop calls after each optimizer step."""


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)
