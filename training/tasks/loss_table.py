"""The losses of stage 2. A new loss is one function of `LossInputs` and one row of `LOSSES`.

A loss outside this package is added to the same table before the task is built. Its weight is a field of a
subclass of `AlignRecipe`:

    from training.tasks.loss_table import LOSSES, Loss

    LOSSES.append(Loss("spread", spread_loss, weight="spread_weight"))

A loss with texts or images of its own is a subclass of `OwnInputs` in place of the function, in a file of its own.
"""

from itertools import combinations

import torch
from torch import Tensor

from training.config import AlignRecipe
from training.tasks.classes import ClassNames
from training.tasks.general import GeneralTexts
from training.tasks.loss import Loss, LossInputs
from training.tasks.losses import embedding_loss, info_nce, sigmoid_loss
from training.tasks.photos import GeneralPhotos


def _info_nce(inputs: LossInputs) -> Tensor:
    own = inputs.own_images, inputs.own_texts
    unit = inputs.unit
    value = info_nce(unit["image"], unit["text"], inputs.logit_scale, inputs.positive, own)
    return inputs.num_processes * value


def _sigmoid(inputs: LossInputs) -> Tensor:
    assert inputs.logit_bias is not None  # the row has needs_bias
    value = sigmoid_loss(
        inputs.unit["image"],
        inputs.unit["text"],
        inputs.logit_scale,
        inputs.logit_bias,
        inputs.positive,
        inputs.own_images,
    )
    return inputs.num_processes * value


def _text_text(inputs: LossInputs) -> Tensor:
    """Mean over all pairs of languages of InfoNCE between their captions."""
    text = inputs.unit["text"]
    values = []
    positive = inputs.positive.float()
    for first, second in combinations(inputs.languages, 2):
        same_image = positive[:, first.index].T @ positive[:, second.index] > 0
        value = info_nce(
            text[first.index],
            text[second.index],
            inputs.logit_scale,
            same_image,
            (first.own, second.own),
        )
        values.append(value)
    return inputs.num_processes * torch.stack(values).mean()


def _interactive(inputs: LossInputs) -> Tensor:
    """InfoNCE of each student tower with the teacher's other tower.

    Source: CLIP-KD, Yang et al., arXiv 2307.12732, interactive contrastive learning.
    """
    own = inputs.own_images, inputs.own_texts
    unit = inputs.unit
    pairs = (("image", "teacher_text"), ("teacher_image", "text"))
    values = [
        info_nce(unit[image], unit[text], inputs.logit_scale, inputs.positive, own)
        for image, text in pairs
    ]
    return inputs.num_processes * torch.stack(values).mean()


def _anchor(inputs: LossInputs) -> dict[str, Tensor]:
    embeddings = inputs.embeddings
    return {
        "image": embedding_loss(embeddings["image"], embeddings["teacher_image"]),
        "text": embedding_loss(embeddings["text"], embeddings["teacher_text"]),
    }


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
    Loss("text_text", _text_text, "text_text_weight", needs_two_languages=True),
    Loss("interactive", _interactive, "interactive_weight", per_language=True, needs_teacher=True),
    Loss("anchor", _anchor, "anchor_weight", needs_teacher=True),
    Loss("general", GeneralTexts, "general_weight", needs_teacher=True),
    Loss("photos", GeneralPhotos, "photo_weight", needs_teacher=True),
    Loss("classes", ClassNames, "class_weight", needs_teacher=True, needs_map=True),
]


def active_losses(recipe: AlignRecipe, has_teacher: bool) -> list[Loss]:
    """The losses that a recipe turns on, in the order of the table.

    Args:
        recipe: Recipe with the weights.
        has_teacher: Whether the run has a teacher.

    Raises:
        ValueError: The recipe weights a loss that needs a teacher or a second language, and there is none.
    """
    losses = [
        loss
        for loss in LOSSES
        if getattr(recipe, loss.weight, 0.0) and loss.for_loss in (None, recipe.loss)
    ]
    has_pairs = any(len(source.caption_columns or {}) > 1 for source in recipe.data.mixture)
    for loss in losses:
        if loss.needs_teacher and not has_teacher:
            raise ValueError(
                f"{loss.weight}: its loss compares with a teacher, and the recipe has none. Name one under teacher, "
                "or set the weight to 0."
            )
        if loss.needs_two_languages and not has_pairs:
            raise ValueError(
                f"{loss.weight}: its loss compares the captions of one image in two languages, but no source of "
                "data.caption_columns has two. Name a second column, or set the weight to 0."
            )
    return losses
