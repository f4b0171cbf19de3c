"""The two stages as tasks: a batch in, named losses out. A task knows student, targets and losses; no optimizer."""

from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.config import AlignRecipe, DistillRecipe
from training.gather import gather, gather_pairs
from training.losses import (
    SIGMOID_BIAS,
    affinity_loss,
    bank_loss,
    clamp_logit_scale,
    embedding_loss,
    feature_map_loss,
    info_nce,
    interactive_loss,
    positives,
    sigmoid_loss,
    text_positives,
)
from training.targets import TargetSource
from training.transforms import Augment, Normalize

TEXT_CHUNK = 64  # texts encoded at once


class Task(nn.Module):
    """What both stages share: the student and how its pictures are made.

    Args:
        student: the model that learns.
        augment: random views.
        normalize: the student's own statistics.
        targets: the teacher's answers; None where there is no teacher. It is no submodule: it never trains.
        learning: prefixes of the student's parameters that learn.
        frozen: prefixes of those among them that do not.

    Raises:
        ValueError: no parameter starts with one of `frozen`.
    """

    chunk_size = 0  # pictures encoded at once, for tasks that can be split; 0 for the whole batch

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
        self.learning, self.frozen = learning, tuple(frozen)
        names = [name for name, _ in student.named_parameters()]
        for prefix in frozen:
            if not any(name.startswith(prefix) for name in names):
                raise ValueError(
                    f"freeze: no parameter of the student starts with {prefix!r}. Names look like {names[1]!r}."
                )
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(self.learns(name))

    def learns(self, name: str) -> bool:
        """Whether the student's parameter or layer of this name learns."""
        return name.startswith(self.learning) and not name.startswith(self.frozen)

    def train(self, mode: bool = True) -> "Task":
        """As in torch, but BatchNorm keeps its statistics in layers that do not learn."""
        super().train(mode)
        for name, module in self.student.named_modules():
            if _is_batch_norm(module) and not self.updates_statistics(name):
                module.eval()
        return self

    def updates_statistics(self, name: str) -> bool:
        """Whether the BatchNorm layer of this name follows the batches."""
        return self.learns(name)

    @property
    def follows_batches(self) -> bool:
        """Whether any BatchNorm layer does, so that a batch in parts is not the same as the batch."""
        return any(
            self.updates_statistics(name) for name, module in self.student.named_modules() if _is_batch_norm(module)
        )

    @property
    def num_views(self) -> int:
        """How many views of a picture take turns; 0 for ever new ones."""
        return self.targets.num_views if self.targets is not None else 0

    def views(self, batch: dict[str, Any]) -> Tensor:
        """The augmented pictures of a batch, (B, 3, S, S) in 0..255."""
        return self.augment(batch["pictures"], batch["rows"], batch["views"])

    def encode_texts(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Encode the captions, those of like length together: they differ much, and padding costs as much as text.

        Returns:
            Token states (T, L, text_width), zero where a chunk was cut short, and embeddings (T, projection_dim).
        """
        input_ids, mask = batch["input_ids"], batch["attention_mask"]
        lengths = mask.sum(1)
        order = lengths.argsort(stable=True)
        states, embeddings = [], []
        for chosen in order.split(TEXT_CHUNK):
            length = int(lengths[chosen[-1]])
            outputs = self.student.get_text_features(input_ids[chosen, :length], mask[chosen, :length])
            states.append(nn.functional.pad(outputs.last_hidden_state, (0, 0, 0, input_ids.shape[1] - length)))
            embeddings.append(outputs.pooler_output)
        back = order.argsort()
        return torch.cat(states)[back], torch.cat(embeddings)[back]

    def after_step(self):
        """Called after each optimizer step."""


class DistillTask(Task):
    """Stage 1: each tower alone learns from its teacher tower; by default its whitened feature map, through a 1x1
    adapter, with Smooth-L1.

    A feature map has no CLS token: what the teacher's holds is learnt through the embedding, which is its projection,
    by students that have one and by those that pool. The embedding term also fits the projections, so that student
    and teacher embeddings can be compared. The loss is a plain sum over towers that share no weight, so training both
    at once is the same as training them apart.

    Args:
        student: the model that learns.
        augment: random views.
        normalize: the student's own statistics.
        targets: the teacher's answers.
        recipe: towers, target and weights.
        vision_width: channels of the teacher's picture map.
        text_width: width of the teacher's token states; None where its tokens are others than the student's, so that
            only pooled targets exist.
        bank: (N, D) teacher embeddings of texts, for the target `logits`.
        logit_scale: the teacher's factor on cosines, likewise.

    Raises:
        ValueError: the recipe wants no adapter, and the widths differ.
    """

    def __init__(
        self,
        student: DCCLIPModel,
        augment: Augment,
        normalize: Normalize,
        targets: TargetSource,
        recipe: DistillRecipe,
        vision_width: int,
        text_width: int | None,
        bank: Tensor | None = None,
        logit_scale: float = 1.0,
    ):
        parts = {"vision": ("vision_model.", "visual_projection."), "text": ("text_model.", "text_projection.")}
        learning = tuple(part for tower in recipe.towers for part in parts[tower])
        super().__init__(student, augment, normalize, targets, learning, recipe.freeze)
        self.recipe, self.bank, self.logit_scale = recipe, bank, logit_scale
        self.vision_adapter = self.text_adapter = None
        if recipe.target == "feature_map" and "vision" in recipe.towers:
            self.vision_adapter = self._adapter("vision", student.config.vision_width, vision_width)
        if recipe.target == "feature_map" and "text" in recipe.towers and text_width is not None:
            self.text_adapter = self._adapter("text", student.config.text_width, text_width)

    def _adapter(self, tower: str, ours: int, theirs: int) -> nn.Module:
        if self.recipe.adapter:
            # a 1x1 convolution over tokens is a linear layer
            return nn.Conv2d(ours, theirs, 1) if tower == "vision" else nn.Linear(ours, theirs)
        if ours != theirs:
            raise ValueError(
                f"adapter: without one the maps must be equally wide, but the student's {tower} map has {ours} "
                f"channels and the teacher's {theirs}. Leave adapter on, or give the student the teacher's width."
            )
        return nn.Identity()

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses by name; `loss` is their weighted sum."""
        losses: dict[str, Tensor] = {}
        if "vision" in self.recipe.towers:
            losses |= self._vision(batch)
        if "text" in self.recipe.towers:
            losses |= self._text(batch)
        weights = {"map": self.recipe.map_weight, "embedding": self.recipe.embedding_weight, "logits": 1.0}
        losses["loss"] = sum(weights[name.rsplit("_", 1)[1]] * value for name, value in losses.items())
        return losses

    def _vision(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        views = self.views(batch)
        targets = self.targets.pictures(views, batch)
        outputs = self.student.get_image_features(self.normalize(views))
        losses = self._pooled("vision", outputs.pooler_output, targets.embedding)
        if self.vision_adapter is not None:
            losses["vision_map"] = self._map_loss(self.vision_adapter(outputs.feature_map), targets.feature_map, dim=1)
        return losses

    def _text(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        targets = self.targets.texts(batch)
        states, embeddings = self.encode_texts(batch)
        losses = self._pooled("text", embeddings, targets.embedding)
        if self.text_adapter is not None:
            mask = batch["attention_mask"]
            if "aligned" in batch:  # what a cut vocabulary reads in other pieces has a pooled target only
                mask = mask * batch["aligned"][:, None]
            excess = states.shape[1] - targets.feature_map.shape[1]
            theirs = nn.functional.pad(targets.feature_map, (0, 0, 0, excess))  # pads, or cuts what is never looked at
            losses["text_map"] = self._map_loss(self.text_adapter(states), theirs, mask, dim=-1)
        return losses

    def _pooled(self, tower: str, ours: Tensor, theirs: Tensor) -> dict[str, Tensor]:
        if self.recipe.target == "logits":
            return {f"{tower}_logits": bank_loss(ours, theirs, self.bank, self.logit_scale)}
        return {f"{tower}_embedding": embedding_loss(ours, theirs)}

    def _map_loss(self, ours: Tensor, theirs: Tensor, mask: Tensor | None = None, dim: int = 1) -> Tensor:
        return feature_map_loss(ours, theirs, mask, self.recipe.smooth_l1_beta, dim, self.recipe.whiten)


class AlignTask(Task):
    """Stage 2: pictures and captions find each other, a term for each language, and an anchor holds the student to
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
        views = self.views(batch)
        image = self.student.get_image_features(self.normalize(views)).pooler_output
        _, text = self.encode_texts(batch)
        outputs = {"image": image.float(), "text": text.float(), "logit_scale": self.student.logit_scale.exp()}
        if self.logit_bias is not None:
            outputs["logit_bias"] = self.logit_bias.clone()  # DDP looks behind outputs, not at them, for parameters
        return outputs if encode_only else self.compare(outputs | self.answers(batch, views), batch)

    def answers(self, batch: dict[str, Any], views: Tensor | None = None) -> dict[str, Tensor]:
        """The teacher's embeddings `teacher_image` (B, D) and `teacher_text` (T, D); nothing without a teacher.

        Args:
            batch: on the device.
            views: the augmented pictures, where they are at hand.
        """
        if self.targets is None:
            return {}
        image = self.targets.pictures(self.views(batch) if views is None else views, batch).embedding
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
        for number, language in enumerate(self.languages):
            chosen = pairs["language"] == number
            texts = {name: value[chosen] if name.endswith("text") else value for name, value in unit.items()}
            for name, (weight, value) in self._pair_terms(outputs, texts, positive[:, chosen]).items():
                losses[f"{name}_{language}"] = value
                total = total + weight * weights[language] * value
        total = total / sum(weights.values())
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
        """Weight and value of each term between the pictures and the captions of one language."""
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
        same = text_positives(positive)
        values = []
        for pair in combinations(range(len(self.languages)), 2):
            first, second = (language == number for number in pair)
            values.append(info_nce(text[first], text[second], outputs["logit_scale"], same[first][:, second]))
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
    for name in ("affinity_weight", "interactive_weight", "anchor_weight"):
        if getattr(recipe, name) and not has_teacher:
            raise ValueError(
                f"{name} is {getattr(recipe, name)}, but there is no teacher to learn from. Name one under teacher, "
                "or set it to 0."
            )


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)
