"""Stage 2 as a task, and the table of its losses. A new loss is one function of `LossInputs` and one row of `LOSSES`.

A loss outside this package is added to the same table before the task is built. Its weight is a field of a
subclass of `AlignRecipe`:

    from training.tasks.align import LOSSES, Loss

    LOSSES.append(Loss("spread", spread_loss, weight="spread_weight"))

A loss with texts or images of its own is a subclass of `OwnInputs` in place of the function, in a file of its own.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.config import AlignRecipe
from training.data.batch import Batch
from training.data.images import Augment, Normalize
from training.tasks.losses import LossInputs, embedding_loss, info_nce, positives
from training.tasks.own_inputs import ClassifierNames, GeneralPhotos, GeneralTexts, OwnInputs
from training.tasks.task import Task, gather, gather_on_host, scalar
from training.teachers.targets import TargetSource

MAX_LOGIT_SCALE = 100.0  # as in CLIP
PAIR = ("image", "text", "teacher_image", "teacher_text")  # outputs that losses compare by name


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
    """

    name: str
    function: Callable[[LossInputs], Tensor | dict[str, Tensor]] | type[OwnInputs]
    weight: str
    per_language: bool = False
    needs_teacher: bool = False
    needs_map: bool = False
    needs_two_languages: bool = False


def _info_nce(inputs: LossInputs) -> Tensor:
    unit = inputs.unit
    return info_nce(unit["image"], unit["text"], inputs.logit_scale, inputs.positive)


def _text_text(inputs: LossInputs) -> Tensor:
    """Mean over all pairs of languages of InfoNCE between their captions, which match if they share an image."""
    text = inputs.unit["text"]
    values = []
    for first, second in combinations(inputs.languages, 2):
        owners, others = (inputs.positive[:, index].float() for index in (first, second))
        shared = owners.T @ others > 0  # (N, M)
        values.append(info_nce(text[first], text[second], inputs.logit_scale, shared))
    return torch.stack(values).mean()


def _interactive(inputs: LossInputs) -> Tensor:
    """InfoNCE of each student tower with the teacher's other tower.

    Source: CLIP-KD, Yang et al., arXiv 2307.12732, interactive contrastive learning.
    """
    unit = inputs.unit
    of_images = info_nce(unit["image"], unit["teacher_text"], inputs.logit_scale, inputs.positive)
    of_texts = info_nce(unit["teacher_image"], unit["text"], inputs.logit_scale, inputs.positive)
    return (of_images + of_texts) / 2


def _anchor(inputs: LossInputs) -> dict[str, Tensor]:
    embeddings = inputs.embeddings
    return {
        "image": embedding_loss(embeddings["image"], embeddings["teacher_image"]),
        "text": embedding_loss(embeddings["text"], embeddings["teacher_text"]),
    }


LOSSES: list[Loss] = [
    Loss("contrastive", _info_nce, "contrastive_weight", per_language=True),
    Loss("text_text", _text_text, "text_text_weight", needs_two_languages=True),
    Loss("interactive", _interactive, "interactive_weight", per_language=True, needs_teacher=True),
    Loss("anchor", _anchor, "anchor_weight", needs_teacher=True),
    Loss("general", GeneralTexts, "general_weight", needs_teacher=True),
    Loss("photos", GeneralPhotos, "photo_weight", needs_teacher=True),
    Loss("classes", ClassifierNames, "class_weight", needs_teacher=True, needs_map=True),
]


def active_losses(recipe: AlignRecipe, has_teacher: bool) -> list[Loss]:
    """The losses that a recipe turns on, in the order of the table.

    Args:
        recipe: Recipe with the weights.
        has_teacher: Whether the run has a teacher.

    Raises:
        ValueError: The recipe weights a loss that needs a teacher or a second language, and there is none.
    """
    losses = [loss for loss in LOSSES if getattr(recipe, loss.weight, 0.0)]
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


class AlignTask(Task):
    """Stage 2: both towers learn which captions match which images.

    The loss is a weighted sum of the rows of `LOSSES` that the recipe turns on: a contrastive loss per language and,
    optionally, losses that keep the student close to its teacher or compare captions across languages. Every loss is
    computed on the batches of all processes.

    Args:
        student: Model that is trained.
        augment: Augmentation of the images.
        normalize: Normalization with the student's mean and standard deviation.
        targets: Distillation targets; None without a teacher. They have a feature map if a loss has `needs_map`.
        recipe: Recipe with the weights.
        own_inputs: Losses with inputs of their own, by the name of their row.

    Raises:
        ValueError: The recipe weights a loss that needs a teacher or a second language, and there is none.
    """

    def __init__(
        self,
        student: DCCLIPModel,
        augment: Augment,
        normalize: Normalize,
        targets: TargetSource | None,
        recipe: AlignRecipe,
        own_inputs: Mapping[str, OwnInputs] | None = None,
    ):
        super().__init__(student, augment, normalize, targets, ("",), recipe.freeze)
        self.losses = active_losses(recipe, targets is not None)
        self.towers = recipe.teacher_towers
        self.recipe = recipe
        self.languages = recipe.data.languages
        self.chunk_size = recipe.chunk_size
        self.seed = recipe.seed
        self.freeze_batch_norm = recipe.freeze_batch_norm
        if recipe.dropout is not None:
            for module in student.text_model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = recipe.dropout
                elif isinstance(getattr(module, "dropout", None), float):  # CLIP's attention
                    module.dropout = recipe.dropout
        self.needs_teacher = any(loss.needs_teacher for loss in self.losses)
        self.needs_map = any(loss.needs_map for loss in self.losses)
        self.own_inputs: Any = nn.ModuleDict(own_inputs)
        # a frozen tower whose outputs are cached does not run again
        self.reads_images = not (
            recipe.shares_image_tower and student.config.vision_pooling == "mean"
        )

    def augmented(self, batch: Batch) -> Batch:
        """A batch with its random views in place of its images, if the image tower runs."""
        return super().augmented(batch) if self.reads_images else batch

    def forward(
        self,
        batch: Batch,
        encode_only: bool = False,
        own_teacher: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            batch: Batch on the device, with augmented images.
            encode_only: Whether to return the student's outputs instead of the losses.
            own_teacher: The teacher's outputs of the whole batch. With `encode_only`, the losses' own inputs are
                encoded only if they are given.

        Returns:
            Losses by name; `loss` is their weighted sum. With `encode_only`: the embeddings `image` (B, D) and `text`
            (T, D), not normalized, `logit_scale` (scalar factor on cosines), and the outputs of the losses' own
            inputs.
        """
        teacher = None if encode_only else self.teacher_outputs(batch)
        outputs = self._encode(batch)
        known = teacher or own_teacher
        if known is not None:
            for own in self.own_inputs.values():
                outputs |= own.encode(self, known)
        return outputs if teacher is None else self.compute_losses(outputs | teacher, batch)

    def _encode(self, batch: Batch) -> dict[str, Tensor]:
        if self.reads_images:
            pixels = self.normalize(batch["images"])
            image = self.student.get_image_features(pixels).pooler_output
        else:
            assert self.targets is not None
            pooled = self.targets.images(batch["images"], batch).required_map.float().mean((2, 3))
            image = self.student.visual_projection(pooled)[:, : self.student.config.embedding_dim]
        text = self.encode_texts(batch["input_ids"], batch["attention_mask"], batch["lengths"])[1]
        return {
            "image": image.float(),
            "text": text.float(),
            "logit_scale": self.student.logit_scale.exp(),
        }

    def teacher_outputs(self, batch: Batch) -> dict[str, Tensor]:
        """The teacher's embeddings of a batch with augmented images.

        Returns:
            `teacher_image` (B, D) and, for losses with the teacher's captions, `teacher_text` (T, D), not normalized,
            in the student's space; `teacher_map` (B, C), the mean of the feature map, if a loss needs it; nothing
            without a teacher or a loss that needs one.
        """
        if self.targets is None or not self.needs_teacher:
            return {}
        targets = self.targets.images(batch["images"], batch)
        outputs = {"teacher_image": self.to_student_space(targets.embedding)}
        if "text" in self.towers:
            outputs["teacher_text"] = self.to_student_space(self.targets.texts(batch).embedding)
        if self.needs_map:
            outputs["teacher_map"] = targets.required_map.float().mean((2, 3))
        return outputs

    def compute_losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Losses over the batches of all processes, in float32.

        Args:
            outputs: Outputs of student and teacher for this batch, from `forward` with `encode_only` and
                `teacher_outputs`.
            batch: Batch whose captions and rows determine the matching pairs.

        Returns:
            Losses by name, each the mean over all widths; `loss` is their weighted sum. The mean over the processes is
            the loss of the whole batch. There is none of a language without a caption in the batch.
        """
        with torch.autocast(outputs["image"].device.type, enabled=False):
            inputs = self._loss_inputs(outputs, batch)
            values = [self._losses(inputs.at_width(width)) for width in self.widths]
            return {
                name: torch.stack([value[name] for value in values]).mean() for name in values[0]
            }

    def _loss_inputs(self, outputs: dict[str, Tensor], batch: Batch) -> LossInputs:
        sizes = {name: len(value) for name, value in outputs.items() if value.ndim}
        fields = batch["rows"], batch["owner"], batch["caption_ids"], batch["language"]
        *labels, all_sizes = zip(*gather_on_host((*fields, sizes)), strict=True)
        rows, owners, caption_ids, language = labels
        starts = np.cumsum([0, *map(len, rows)])
        owner = [part + start for part, start in zip(owners, starts.tolist(), strict=False)]
        gathered = {
            name: gather(outputs[name], [each[name] for each in all_sizes]) for name in sizes
        }
        spoken = torch.cat(language)
        return LossInputs(
            embeddings={name: gathered.pop(name) for name in PAIR if name in gathered},
            width=self.widths[-1],
            logit_scale=outputs["logit_scale"],
            extra=gathered,
            positive=positives(
                torch.cat(rows), torch.cat(owner), torch.cat(caption_ids), self.student.device
            ),
            languages=[
                self.on_device((spoken == number).nonzero().flatten())
                for number in range(len(self.languages))
            ],
        )

    def _losses(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Losses at one width by name; a batch without some of the languages has the same total weight."""
        in_language = {}
        for language, captions in zip(self.languages, inputs.languages, strict=True):
            if len(captions):
                in_language[f"_{language}"] = inputs.in_language(captions)
        own_inputs = dict(self.own_inputs.items())
        values: dict[str, Tensor] = {}
        total: Any = 0
        for loss in self.losses:
            function = own_inputs.get(loss.name, loss.function)
            compared = in_language if loss.per_language else {"": inputs}
            for suffix, each in compared.items():
                result = function(each)
                parts = result if isinstance(result, dict) else {"": result}
                for part, value in parts.items():
                    name = f"{loss.name}_{part}{suffix}" if part else f"{loss.name}{suffix}"
                    values[name] = scalar(value, loss.name)
                    total = total + getattr(self.recipe, loss.weight) * value / len(compared)
        return values | {"loss": total}

    def after_step(self):
        """Clamp the logit scale."""
        with torch.no_grad():
            self.student.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
