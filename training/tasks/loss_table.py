"""The losses of stage 2. A new loss is one function of `LossInputs` and one row of `LOSSES`.

A loss outside this package is added to the same table before the task is built. Its weight is a field of a
subclass of `AlignRecipe`:

    from training.tasks.loss_table import LOSSES, Loss

    LOSSES.append(Loss("spread", spread_loss, weight="spread_weight"))
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from training.config import AlignRecipe
from training.tasks.losses import (
    affinity_loss,
    class_loss,
    embedding_loss,
    info_nce,
    sigmoid_loss,
    text_positives,
)

DISTANCES = ("photo_map",)  # outputs that are distances already, one for each image
CLASS_SCALE = (
    40.0  # factor on cosines to class names; a sharper softmax than a small batch of captions needs
)


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """The embeddings of a batch of all processes, and its labels; all float32.

    Args:
        embeddings: Embeddings by name, not normalized: `image` (B, D) and `text` (T, D) of the student and, with a
            teacher, `teacher_image` (B, D) and `teacher_text` (T, D); `general` and `teacher_general`, (G, D) each, if
            the recipe has a `general_weight`; `photo_general` and `teacher_photo_general`, (P, D) each, if it has a
            `photo_weight`; `names` (M, D) of classes, each class in all languages, if it has a `class_weight`.
        unit: The embeddings of images and captions, L2-normalized.
        distances: Distances that the towers' outputs were reduced to, by name: `photo_map` (P,), if the recipe has a
            `photo_weight` and the student started as a copy of its teacher.
        class_logits: Logits of the classifier, (B, C); None without a `class_weight`.
        name_ids: Class and language of each of `names`, class + C * language, (M,) int64, sorted within a chunk.
        logit_scale: Scalar factor on the student's cosines.
        teacher_logit_scale: Factor on the teacher's cosines.
        logit_bias: Scalar added to the scaled cosines; None unless a loss has `needs_bias`.
        positive: Which captions match which image, (B, T) bool.
        language: Index into the languages of the recipe, (T,) int64.
        num_languages: Number of languages of the recipe.
    """

    embeddings: dict[str, Tensor]
    unit: dict[str, Tensor]
    distances: dict[str, Tensor]
    class_logits: Tensor | None
    name_ids: Tensor | None
    logit_scale: Tensor
    teacher_logit_scale: float
    logit_bias: Tensor | None
    positive: Tensor
    language: Tensor
    num_languages: int

    @classmethod
    def from_outputs(cls, outputs: dict[str, Tensor], **labels: Any) -> "LossInputs":
        """Build the inputs from the outputs of student and teacher.

        Args:
            outputs: Embeddings, distances and scalars by name, as `AlignTask.forward` with
                `encode_only` and `AlignTask.teacher_outputs` return them.
            labels: All other fields.
        """
        others = ("logit_scale", "logit_bias", "class_logits", "name_ids", *DISTANCES)
        embeddings = {name: value for name, value in outputs.items() if name not in others}
        return cls(
            embeddings=embeddings,
            unit=_normalized(embeddings),
            distances={name: outputs[name] for name in DISTANCES if name in outputs},
            class_logits=outputs.get("class_logits"),
            name_ids=outputs.get("name_ids"),
            logit_scale=outputs["logit_scale"],
            logit_bias=outputs.get("logit_bias"),
            **labels,
        )

    def for_language(self, number: int) -> "LossInputs":
        """The same batch with the captions of one language only."""
        chosen = self.language == number

        def select(embeddings: dict[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: value[chosen] if name.endswith("text") else value
                for name, value in embeddings.items()
            }

        return replace(
            self,
            embeddings=select(self.embeddings),
            unit=select(self.unit),
            positive=self.positive[:, chosen],
            language=self.language[chosen],
        )

    def at_width(self, width: int) -> "LossInputs":
        """The same batch with the leading dimensions of all embeddings.

        Args:
            width: Number of dimensions, in 1..D.
        """
        if all(value.shape[1] == width for value in self.embeddings.values()):
            return self
        embeddings = {name: value[:, :width] for name, value in self.embeddings.items()}
        return replace(self, embeddings=embeddings, unit=_normalized(embeddings))

    @property
    def student_pair(self) -> tuple[Tensor, Tensor]:
        """The student's images (B, D) and captions (T, D), L2-normalized."""
        return self.unit["image"], self.unit["text"]

    @property
    def teacher_pair(self) -> tuple[Tensor, Tensor]:
        """The teacher's images (B, D) and captions (T, D), L2-normalized."""
        return self.unit["teacher_image"], self.unit["teacher_text"]


def _normalized(embeddings: dict[str, Tensor]) -> dict[str, Tensor]:
    """L2-normalized embeddings of images and captions; losses on general texts and images take them as they are."""
    return {
        name: nn.functional.normalize(value, dim=-1)
        for name, value in embeddings.items()
        if not name.endswith("general")
    }


@dataclass(frozen=True)
class Loss:
    """One row of the table.

    Args:
        name: Name in the log. A loss per language is logged as `NAME_LANGUAGE`, and a part of a loss as `NAME_PART`.
        function: Function of `LossInputs` that returns a scalar, or a dict of the scalars of its parts. The weight
            applies to the sum of the parts.
        weight: Field of the recipe with the weight. Weight 0 turns the loss off.
        per_language: Whether the loss is computed for the captions of each language, and their mean is taken.
        needs_teacher: Whether the loss needs the embeddings of a teacher. Without such a loss, the inputs have none.
        needs_two_languages: Whether the loss compares captions of different languages.
        needs_bias: Whether the loss needs a learnt `logit_bias`.
        for_loss: Value of `AlignRecipe.loss` that selects the row; None for rows that do not depend on it.
    """

    name: str
    function: Callable[[LossInputs], Tensor | dict[str, Tensor]]
    weight: str
    per_language: bool = False
    needs_teacher: bool = False
    needs_two_languages: bool = False
    needs_bias: bool = False
    for_loss: str | None = None

    def weight_in(self, recipe: AlignRecipe) -> float:
        """Weight of the loss in a recipe; 0 if the recipe has no such field."""
        return getattr(recipe, self.weight, 0.0)


def _info_nce(inputs: LossInputs) -> Tensor:
    return info_nce(*inputs.student_pair, inputs.logit_scale, inputs.positive)


def _sigmoid(inputs: LossInputs) -> Tensor:
    assert inputs.logit_bias is not None  # the row has needs_bias
    return sigmoid_loss(
        *inputs.student_pair, inputs.logit_scale, inputs.logit_bias, inputs.positive
    )


def _affinity(inputs: LossInputs) -> Tensor:
    return affinity_loss(
        inputs.student_pair, inputs.teacher_pair, inputs.logit_scale, inputs.teacher_logit_scale
    )


def _text_text(inputs: LossInputs) -> Tensor:
    """Mean over all pairs of languages of InfoNCE between their captions."""
    text, values = inputs.unit["text"], []
    for pair in combinations(range(inputs.num_languages), 2):
        first, second = (inputs.language == number for number in pair)
        same_image = text_positives(inputs.positive[:, first], inputs.positive[:, second])
        values.append(info_nce(text[first], text[second], inputs.logit_scale, same_image))
    return torch.stack(values).mean()


def _anchor(inputs: LossInputs) -> dict[str, Tensor]:
    embeddings = inputs.embeddings
    return {
        "image": embedding_loss(embeddings["image"], embeddings["teacher_image"]),
        "text": embedding_loss(embeddings["text"], embeddings["teacher_text"]),
    }


def _general(inputs: LossInputs) -> Tensor:
    return embedding_loss(inputs.embeddings["general"], inputs.embeddings["teacher_general"])


def _photos(inputs: LossInputs) -> dict[str, Tensor]:
    embeddings = inputs.embeddings
    parts = {
        "embedding": embedding_loss(
            embeddings["photo_general"], embeddings["teacher_photo_general"]
        )
    }
    if "photo_map" in inputs.distances:
        parts["map"] = inputs.distances["photo_map"].mean()
    return parts


def _classes(inputs: LossInputs) -> Tensor:
    logits, ids = inputs.class_logits, inputs.name_ids
    assert logits is not None and ids is not None  # the recipe has a class_weight
    # chunks and processes encode some names several times; the first one counts
    ids, inverse = ids.unique(return_inverse=True)
    first = torch.full_like(ids, len(inverse)).scatter_reduce_(
        0, inverse, torch.arange(len(inverse), device=ids.device), "amin"
    )
    names = inputs.embeddings["names"][first].unflatten(0, (inputs.num_languages, -1))
    return class_loss(
        inputs.embeddings["image"], names, logits[:, ids[: names.shape[1]]], CLASS_SCALE
    )


LOSSES: list[Loss] = [
    Loss("contrastive", _info_nce, "contrastive_weight", per_language=True, for_loss="infonce"),
    Loss(
        "contrastive",
        _sigmoid,
        "contrastive_weight",
        per_language=True,
        needs_bias=True,
        for_loss="sigmoid",
    ),
    Loss("affinity", _affinity, "affinity_weight", per_language=True, needs_teacher=True),
    Loss("text_text", _text_text, "text_text_weight", needs_two_languages=True),
    Loss("anchor", _anchor, "anchor_weight", needs_teacher=True),
    Loss("general", _general, "general_weight", needs_teacher=True),
    Loss("photos", _photos, "photo_weight", needs_teacher=True),
    Loss("classes", _classes, "class_weight", needs_teacher=True),
]


def active_losses(recipe: AlignRecipe, languages: list[str], has_teacher: bool) -> list[Loss]:
    """The losses that a recipe turns on, in the order of the table.

    Args:
        recipe: Recipe with the weights.
        languages: Languages of the captions, ISO 639-1 codes.
        has_teacher: Whether the run has a teacher.

    Raises:
        ValueError: The recipe weights a loss that needs a teacher or a second language, and there is none.
    """
    losses = [
        loss for loss in LOSSES if loss.weight_in(recipe) and loss.for_loss in (None, recipe.loss)
    ]
    for loss in losses:
        if loss.needs_two_languages:
            _check_languages(loss, recipe, languages)
        if loss.needs_teacher and not has_teacher:
            raise ValueError(
                f"{loss.weight} is {loss.weight_in(recipe)}, but the recipe has no teacher. Name one under "
                "teacher, or set the weight to 0."
            )
    return losses


def _check_languages(loss: Loss, recipe: AlignRecipe, languages: list[str]):
    weight = f"{loss.weight} is {loss.weight_in(recipe)}"
    if len(languages) < 2:
        raise ValueError(
            f"{weight}, but data.caption_columns has only {languages}, and the loss compares languages. Name another "
            "column, or set the weight to 0."
        )
    if all(len(source.caption_columns or {}) < 2 for source in recipe.data.mixture):
        raise ValueError(
            f"{weight}, but no source under data.sources has captions in two languages, and the loss compares those "
            "of one image. Name a source that has, or set the weight to 0."
        )
