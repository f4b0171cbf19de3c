"""The two stages as tasks: a batch in, named losses out. A task knows student, targets and losses; no optimizer."""

from typing import Any

import torch
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.config import AlignRecipe, DistillRecipe
from training.losses import bank_loss, clamp_logit_scale, embedding_loss, feature_map_loss, info_nce, positives
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
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not self.updates_statistics(name):
                module.eval()
        return self

    def updates_statistics(self, name: str) -> bool:
        """Whether the BatchNorm layer of this name follows the batches."""
        return self.learns(name)

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
    """Stage 2: InfoNCE between pictures and captions, a term for each language, and an anchor to the teacher's
    embeddings.

    Args:
        student: the model that learns.
        augment: random views.
        normalize: the student's own statistics.
        targets: the teacher's answers, where the recipe has an anchor.
        recipe: weights.
        languages: of the batch's `language` ids, in order.

    Raises:
        ValueError: the recipe weights a language that the data do not have, or leaves one out.
    """

    def __init__(
        self,
        student: DCCLIPModel,
        augment: Augment,
        normalize: Normalize,
        targets: TargetSource | None,
        recipe: AlignRecipe,
        languages: list[str],
    ):
        super().__init__(student, augment, normalize, targets, ("",), recipe.freeze)
        if set(recipe.language_weights) != set(languages):
            raise ValueError(
                f"language_weights names {sorted(recipe.language_weights)}, data.caption_columns "
                f"{sorted(languages)}. Weight every language of the data, and no other."
            )
        self.recipe, self.languages = recipe, languages

    def updates_statistics(self, name: str) -> bool:
        """As in stage 1, unless the recipe freezes all statistics."""
        return not self.recipe.freeze_batch_norm and self.learns(name)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses by name; `loss` is their weighted sum."""
        views = self.views(batch)
        image = self.student.get_image_features(self.normalize(views)).pooler_output
        _, text = self.encode_texts(batch)
        losses = self._contrastive(image, text, batch)
        weights = {
            f"contrastive_{name}": self.recipe.contrastive_weight * w
            for name, w in self.recipe.language_weights.items()
        }
        total = sum(weights[name] * value for name, value in losses.items()) / sum(
            self.recipe.language_weights.values()
        )
        if self.targets is not None:
            losses["anchor_image"] = embedding_loss(image, self.targets.pictures(views, batch).embedding)
            losses["anchor_text"] = embedding_loss(text, self.targets.texts(batch).embedding)
            total = total + self.recipe.anchor_weight * (losses["anchor_image"] + losses["anchor_text"])
        return losses | {"loss": total}

    def _contrastive(self, image: Tensor, text: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        image, text = nn.functional.normalize(image, dim=-1), nn.functional.normalize(text, dim=-1)
        positive = positives(batch["owner"], batch["caption_ids"], len(image))
        scale = self.student.logit_scale.exp()
        losses = {}
        for number, language in enumerate(self.languages):
            chosen = batch["language"] == number
            losses[f"contrastive_{language}"] = info_nce(image, text[chosen], scale, positive[:, chosen])
        return losses

    def after_step(self):
        """Clamp the logit scale."""
        clamp_logit_scale(self.student.logit_scale, self.recipe.max_logit_scale)
