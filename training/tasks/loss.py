"""What a loss of stage 2 is: its row, what it compares, and inputs that it brings along."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import AlignRecipe
from training.tasks.task import Task
from training.teachers import DualEncoder
from training.teachers.targets import TargetSource

LossValue = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class Captions:
    """The captions of one language.

    Args:
        index: Which captions of the batch they are, (T,) int64.
        own: Which of them belong to this process.
    """

    index: Tensor
    own: slice


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """The embeddings of a batch of all processes, and its labels; all float32.

    Args:
        embeddings: Embeddings by name, not normalized: `image` (B, D) and `text` (T, D) of the student and, with a
            teacher, `teacher_image` (B, D) and `teacher_text` (T, D).
        extra: Other outputs by name at their full width: what `OwnInputs.encode` returns, and `teacher_map` (B, C),
            the mean of the teacher's feature map, if a loss has `needs_map`.
        width: Number of leading dimensions D that are compared.
        logit_scale: Scalar factor on the student's cosines.
        logit_bias: Scalar added to the scaled cosines; None unless a loss has `needs_bias`.
        positive: Which captions match which image, (B, T) bool.
        languages: Captions of each language of the recipe.
        own_images: Which images belong to this process.
        own_texts: Which captions belong to this process.
        num_processes: Number of processes. A loss that each process computes for its own rows only is multiplied by
            it, because the loss of a batch is the mean over the processes.
    """

    embeddings: dict[str, Tensor]
    extra: dict[str, Tensor]
    width: int
    logit_scale: Tensor
    logit_bias: Tensor | None
    positive: Tensor
    languages: list[Captions]
    own_images: slice
    own_texts: slice
    num_processes: int

    @cached_property
    def unit(self) -> dict[str, Tensor]:
        """The same embeddings, L2-normalized."""
        return {
            name: nn.functional.normalize(value, dim=-1) for name, value in self.embeddings.items()
        }

    def in_language(self, captions: Captions) -> "LossInputs":
        """The same batch with the captions of one language only."""
        embeddings = dict(self.embeddings)
        for name, value in self.embeddings.items():
            if name.endswith("text"):
                embeddings[name] = value[captions.index]
        positive = self.positive[:, captions.index]
        return replace(self, embeddings=embeddings, positive=positive, own_texts=captions.own)

    def at_width(self, width: int) -> "LossInputs":
        """The same batch with the leading dimensions of all embeddings.

        Args:
            width: Number of dimensions, in 1..D.
        """
        embeddings = {name: value[:, :width] for name, value in self.embeddings.items()}
        return replace(self, embeddings=embeddings, width=width)

    def cut(self, name: str) -> Tensor:
        """The leading dimensions of embeddings in `extra`, (..., D)."""
        return self.extra[name][..., : self.width]


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


@dataclass(frozen=True)
class Loss:
    """One row of the table.

    Args:
        name: Name in the log. A loss per language is logged as `NAME_LANGUAGE`, and a part of a loss as `NAME_PART`.
        function: Function of `LossInputs` that returns a scalar, or a dict of the scalars of its parts; or a subclass
            of `OwnInputs`. The weight applies to the sum of the parts.
        weight: Field of the recipe with the weight. Weight 0 turns the loss off.
        per_language: Whether the loss is computed for the captions of each language, and their mean is taken.
        needs_teacher: Whether the loss needs the embeddings of a teacher. Without such a loss, the inputs have none.
        needs_map: Whether the loss needs the mean of the teacher's image feature map.
        needs_two_languages: Whether the loss compares captions of different languages.
        needs_bias: Whether the loss needs a learned `logit_bias`.
        for_loss: Value of `AlignRecipe.loss` that selects the row; None for rows that do not depend on it.
    """

    name: str
    function: Callable[[LossInputs], LossValue] | type[OwnInputs]
    weight: str
    per_language: bool = False
    needs_teacher: bool = False
    needs_map: bool = False
    needs_two_languages: bool = False
    needs_bias: bool = False
    for_loss: str | None = None
