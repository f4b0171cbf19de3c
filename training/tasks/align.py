"""Stage 2 as a task."""

from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.config import AlignRecipe
from training.data.transforms import Augment, Normalize
from training.tasks.gather import gather, gather_pairs
from training.tasks.losses import (
    SIGMOID_BIAS,
    affinity_loss,
    clamp_logit_scale,
    embedding_loss,
    info_nce,
    interactive_loss,
    positives,
    sigmoid_loss,
    text_positives,
)
from training.tasks.task import Task
from training.teachers.targets import TargetSource


class AlignTask(Task):
    """Stage 2: images and captions find each other, a term for each language, and an anchor holds the student to
    the teacher's embeddings. Terms between languages and further terms of the teacher are there where they are
    weighted.

    Every term sees the batches of all processes, so each process computes the same losses.

    Args:
        student: the model that learns.
        augment: random views.
        normalize: the student's own statistics.
        targets: the teacher's answers, where there is one.
        recipe: the loss and the weights.
        languages: of the batch's `language` ids, in order.
        teacher_logit_scale: the teacher's factor on cosines.

    Raises:
        ValueError: the recipe weights a language that the data do not have, or leaves one out; or it weights a term
            that needs a teacher or a second language, and there is none.
    """

    def __init__(
        self,
        student: DCCLIPModel,
        augment: Augment,
        normalize: Normalize,
        targets: TargetSource | None,
        recipe: AlignRecipe,
        languages: list[str],
        teacher_logit_scale: float = 1.0,
    ):
        super().__init__(student, augment, normalize, targets, ("",), recipe.freeze)
        _check_weights(recipe, languages, targets is not None)
        self.recipe, self.languages, self.teacher_logit_scale = recipe, languages, teacher_logit_scale
        self.chunk_size = recipe.chunk_size
        # it shifts all similarities alike, which no use of the student looks at: a part of the training, not of it
        self.logit_bias = nn.Parameter(torch.tensor(SIGMOID_BIAS)) if recipe.loss == "sigmoid" else None

    def updates_statistics(self, name: str) -> bool:
        """As in stage 1, unless the recipe freezes all statistics."""
        return not self.recipe.freeze_batch_norm and self.learns(name)

    def forward(self, batch: dict[str, Any], encode_only: bool = False) -> dict[str, Tensor]:
        """Losses by name; `loss` is their weighted sum. With `encode_only`, what they are made of: the student's
        embeddings `image` (B, D) and `text` (T, D), not normalised, `logit_scale` (its factor on cosines) and, for
        the sigmoid loss, `logit_bias`.
        """
        images = self.augmented_images(batch)
        image = self.student.get_image_features(self.normalize(images)).pooler_output
        _, text = self.encode_texts(batch)
        outputs = {"image": image.float(), "text": text.float(), "logit_scale": self.student.logit_scale.exp()}
        if self.logit_bias is not None:
            outputs["logit_bias"] = self.logit_bias.clone()  # DDP looks behind outputs, not at them, for parameters
        return outputs if encode_only else self.compare(outputs | self.answers(batch, images), batch)

    def answers(self, batch: dict[str, Any], images: Tensor | None = None) -> dict[str, Tensor]:
        """The teacher's embeddings `teacher_image` (B, D) and `teacher_text` (T, D); nothing without a teacher.

        Args:
            batch: on the device.
            images: the augmented images, where they are at hand.
        """
        if self.targets is None:
            return {}
        image = self.targets.images(self.augmented_images(batch) if images is None else images, batch).embedding
        return {"teacher_image": image.float(), "teacher_text": self.targets.texts(batch).embedding.float()}

    def compare(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses by name over the batches of all processes, in float32.

        Args:
            outputs: what `forward` with `encode_only` and `answers` give for this batch.
            batch: which pairs are right.
        """
        with torch.autocast(outputs["image"].device.type, enabled=False):
            pairs = gather_pairs(batch)
            outputs = {name: gather(value) if value.ndim else value for name, value in outputs.items()}
            return self._losses(outputs, pairs)

    def _losses(self, outputs: dict[str, Tensor], pairs: dict[str, Tensor]) -> dict[str, Tensor]:
        recipe, weights = self.recipe, self.recipe.language_weights
        unit = {name: nn.functional.normalize(value, dim=-1) for name, value in outputs.items() if value.ndim}
        positive = positives(pairs["owner"], pairs["caption_ids"], len(unit["image"]), pairs["rows"])
        losses: dict[str, Tensor] = {}
        total: Any = 0
        num_read = 0
        for number, language in enumerate(self.languages):
            chosen = pairs["language"] == number
            num_read += int(chosen.any())
            texts = {name: value[chosen] if name.endswith("text") else value for name, value in unit.items()}
            for name, (weight, value) in self._pair_terms(outputs, texts, positive[:, chosen]).items():
                losses[f"{name}_{language}"] = value
                total = total + weight * weights[language] * value
        # with all languages in the batch their weighted mean; a batch of some of them weighs as much, at their weights
        total = total / (sum(weights.values()) * max(1, num_read) / len(self.languages))
        if recipe.text_text_weight:
            losses["text_text"] = self._between_languages(outputs, unit["text"], positive, pairs["language"])
            total = total + recipe.text_text_weight * losses["text_text"]
        if self.targets is not None:
            losses["anchor_image"] = embedding_loss(outputs["image"], outputs["teacher_image"])
            losses["anchor_text"] = embedding_loss(outputs["text"], outputs["teacher_text"])
            total = total + recipe.anchor_weight * (losses["anchor_image"] + losses["anchor_text"])
        return losses | {"loss": total}

    def _pair_terms(
        self, outputs: dict[str, Tensor], unit: dict[str, Tensor], positive: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of each term between the images and the captions of one language."""
        recipe, scale = self.recipe, outputs["logit_scale"]
        student = unit["image"], unit["text"]
        if recipe.loss == "sigmoid":
            contrastive = sigmoid_loss(*student, scale, outputs["logit_bias"], positive)
        else:
            contrastive = info_nce(*student, scale, positive)
        terms = {"contrastive": (recipe.contrastive_weight, contrastive)}
        if recipe.affinity_weight:
            teacher = unit["teacher_image"], unit["teacher_text"]
            value = affinity_loss(student, teacher, scale, self.teacher_logit_scale)
            terms["affinity"] = recipe.affinity_weight, value
        if recipe.interactive_weight:
            teacher = unit["teacher_image"], unit["teacher_text"]
            terms["interactive"] = recipe.interactive_weight, interactive_loss(student, teacher, scale, positive)
        return terms

    def _between_languages(
        self, outputs: dict[str, Tensor], text: Tensor, positive: Tensor, language: Tensor
    ) -> Tensor:
        """Mean over the pairs of languages of InfoNCE between their captions."""
        values = []
        for pair in combinations(range(len(self.languages)), 2):
            first, second = (language == number for number in pair)
            same = text_positives(positive[:, first], positive[:, second])
            values.append(info_nce(text[first], text[second], outputs["logit_scale"], same))
        return torch.stack(values).mean()

    def after_step(self):
        """Clamp the logit scale."""
        clamp_logit_scale(self.student.logit_scale, self.recipe.max_logit_scale)


def _check_weights(recipe: AlignRecipe, languages: list[str], has_teacher: bool):
    if set(recipe.language_weights) != set(languages):
        raise ValueError(
            f"language_weights names {sorted(recipe.language_weights)}, data.caption_columns "
            f"{sorted(languages)}. Weight every language of the data, and no other."
        )
    if recipe.text_text_weight and len(languages) < 2:
        raise ValueError(
            f"text_text_weight is {recipe.text_text_weight}, but data.caption_columns has {languages} alone, and the "
            "term compares languages. Name another column, or set it to 0."
        )
    if recipe.text_text_weight and recipe.data.batches == "one_language":
        raise ValueError(
            f"text_text_weight is {recipe.text_text_weight}, but data.batches is 'one_language', and the term "
            "compares an image's captions in two. Take data.batches: mixed or one_source, or set it to 0."
        )
    if recipe.text_text_weight and all(len(source.caption_columns or {}) < 2 for source in recipe.data.mixture):
        raise ValueError(
            f"text_text_weight is {recipe.text_text_weight}, but no source under data.sources has captions in two "
            "languages, and the term compares those of one image. Name one that has, or set it to 0."
        )
    for name in ("affinity_weight", "interactive_weight", "anchor_weight"):
        if getattr(recipe, name) and not has_teacher:
            raise ValueError(
                f"{name} is {getattr(recipe, name)}, but there is no teacher to learn from. Name one under teacher, "
                "or set it to 0."
            )
