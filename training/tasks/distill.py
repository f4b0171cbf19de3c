"""Stage 1 as a task, and the table of its losses. A new loss is one function of `TowerInputs` and one row."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.config import DistillRecipe
from training.data.batch import Batch
from training.data.images import Augment, Normalize
from training.tasks.losses import bank_loss, embedding_loss, feature_map_loss
from training.tasks.task import Task, scalar
from training.teachers.targets import TargetSource

LEARNING = {
    "vision": ("vision_model.", "visual_projection."),
    "text": ("text_model.", "text_projection."),
}


@dataclass(frozen=True, kw_only=True)
class TowerInputs:
    """What a loss of stage 1 compares, for one tower.

    Args:
        tower: `vision` or `text`.
        student: Embeddings of the student, (N, D) float32, not normalized, of B images or T captions.
        teacher: Embeddings of the teacher in the student's space, (N, D) float32, not normalized.
        student_map: Feature map of the student at the teacher's width C: (B, C, H, W), or (T, L, C) for T captions.
            None unless a loss has `needs_map` and the teacher gives a map.
        teacher_map: Feature map of the teacher after its final norm, of the same shape.
        mask: Tokens with a target, (T, L), 1 or 0; None for images.
        bank: The teacher's embeddings of M texts in the student's space, (M, D), if a loss has `needs_bank`.
        logit_scale: Factor on the teacher's cosines.
        batch: The batch.
    """

    tower: str
    student: Tensor
    teacher: Tensor
    student_map: Tensor | None
    teacher_map: Tensor | None
    mask: Tensor | None
    bank: Tensor | None
    logit_scale: float
    batch: Batch


@dataclass(frozen=True)
class DistillLoss:
    """One row of the table.

    Args:
        name: Name in the log, after the tower: `vision_NAME`.
        function: Function of `TowerInputs` that returns a scalar.
        weight: Field of the recipe with the weight. Weight 0 turns the loss off.
        needs_map: Whether the loss compares feature maps. It is left out for a tower whose teacher has none for the
            student's tokens. Other losses are the mean over the recipe's `prefixes` of the embeddings and all of them.
        needs_bank: Whether the loss needs the teacher's embeddings of the captions of the data.
    """

    name: str
    function: Callable[[TowerInputs], Tensor]
    weight: str
    needs_map: bool = False
    needs_bank: bool = False


def _map(inputs: TowerInputs) -> Tensor:
    assert (
        inputs.student_map is not None and inputs.teacher_map is not None
    )  # the row has needs_map
    dim = 1 if inputs.tower == "vision" else -1
    return feature_map_loss(inputs.student_map, inputs.teacher_map, inputs.mask, dim=dim)


def _logits(inputs: TowerInputs) -> Tensor:
    assert inputs.bank is not None  # the row has needs_bank
    return bank_loss(inputs.student, inputs.teacher, inputs.bank, inputs.logit_scale)


DISTILL_LOSSES: list[DistillLoss] = [
    DistillLoss("map", _map, "map_weight", needs_map=True),
    DistillLoss(
        "embedding", lambda tower: embedding_loss(tower.student, tower.teacher), "embedding_weight"
    ),
    DistillLoss("logits", _logits, "logits_weight", needs_bank=True),
]


def distill_losses(recipe: DistillRecipe) -> list[DistillLoss]:
    """The losses that a recipe turns on, in the order of the table.

    Raises:
        ValueError: It turns on none.
    """
    if losses := [loss for loss in DISTILL_LOSSES if getattr(recipe, loss.weight, 0.0)]:
        return losses
    raise ValueError(
        "map_weight: all losses have the weight 0, so nothing would be learned. Give one a weight."
    )


class DistillTask(Task):
    """Stage 1: each tower learns from its teacher tower.

    By default, the student's feature map goes through a 1x1 adapter and is compared with the teacher's whitened
    feature map (Smooth-L1), and the student's embedding is compared with the teacher's (cosine distance).

    A feature map has no CLS token. The information in the teacher's CLS token reaches the student through the
    embedding, which is the projection of that token. The embedding loss also trains the student's projections, so that
    student and teacher embeddings can be compared. The towers share no weights, so the sum of their losses trains each
    tower as if it were trained alone.

    Args:
        student: Model that is trained.
        augment: Augmentation of the images.
        normalize: Normalization with the student's mean and standard deviation.
        targets: Distillation targets.
        recipe: Recipe with the towers and the weights.
        map_widths: Number of channels of the teacher's feature map by tower; a tower without a map is left out.
        bank: Teacher embeddings of M texts, (M, D), if a loss needs them.
        logit_scale: Factor on the teacher's cosines.
    """

    targets: TargetSource

    def __init__(
        self,
        student: DCCLIPModel,
        augment: Augment,
        normalize: Normalize,
        targets: TargetSource,
        recipe: DistillRecipe,
        map_widths: dict[str, int],
        bank: Tensor | None = None,
        logit_scale: float = 1.0,
    ):
        learning = tuple(name for tower in recipe.towers for name in LEARNING[tower])
        super().__init__(student, augment, normalize, targets, learning, recipe.freeze)
        self.losses = distill_losses(recipe)
        self.recipe, self.towers = recipe, recipe.towers
        self.bank, self.logit_scale = bank, logit_scale
        config: Any = (
            student.config
        )  # a built student has widths; the type of the config allows None
        self.vision_adapter: nn.Module | None = None
        self.text_adapter: nn.Module | None = None
        if any(loss.needs_map for loss in self.losses):
            # a 1x1 convolution over tokens is a linear layer
            if "vision" in self.towers and "vision" in map_widths:
                self.vision_adapter = nn.Conv2d(config.vision_width, map_widths["vision"], 1)
            if "text" in self.towers and "text" in map_widths:
                self.text_adapter = nn.Linear(config.text_width, map_widths["text"])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of a batch by name; `loss` is their weighted sum."""
        losses: dict[str, Tensor] = {}
        total: Any = 0
        for tower in self.towers:
            inputs = self._vision(batch) if tower == "vision" else self._text(batch)
            for loss in self.losses:
                if loss.needs_map and inputs.student_map is None:
                    continue
                with torch.autocast(
                    inputs.student.device.type, enabled=False
                ):  # half precision destroys gradients
                    parts = (
                        [inputs]
                        if loss.needs_map
                        else [self._at_width(inputs, width) for width in self.widths]
                    )
                    value = torch.stack(
                        [scalar(loss.function(part), loss.name) for part in parts]
                    ).mean()
                losses[f"{tower}_{loss.name}"] = value
                total = total + getattr(self.recipe, loss.weight) * value
        return losses | {"loss": total}

    def _vision(self, batch: Batch) -> TowerInputs:
        images = batch["images"]
        targets = self.targets.images(images, batch)
        outputs = self.student.get_image_features(self.normalize(images))
        if self.vision_adapter is None:
            return self._inputs("vision", batch, outputs.pooler_output, targets.embedding)
        maps = self.vision_adapter(outputs.feature_map), targets.required_map  # (B, C, H, W) each
        return self._inputs("vision", batch, outputs.pooler_output, targets.embedding, maps)

    def _text(self, batch: Batch) -> TowerInputs:
        targets = self.targets.texts(batch)
        states, embeddings = self.encode_texts(
            batch["input_ids"], batch["attention_mask"], batch["lengths"]
        )
        if self.text_adapter is None:
            return self._inputs("text", batch, embeddings, targets.embedding)
        mask = batch["attention_mask"]
        if "aligned" in batch:  # captions whose tokens are not the teacher's have no token targets
            mask = mask * batch["aligned"][:, None]
        # pads the teacher's states to the student's length, or removes states that are masked in any case
        excess = states.shape[1] - targets.required_map.shape[1]
        teacher_states = nn.functional.pad(targets.required_map, (0, 0, 0, excess))  # (T, L, C)
        maps = self.text_adapter(states), teacher_states
        return self._inputs("text", batch, embeddings, targets.embedding, maps, mask)

    def _inputs(
        self,
        tower: str,
        batch: Batch,
        student: Tensor,
        teacher: Tensor,
        maps: tuple[Tensor | None, Tensor | None] = (None, None),
        mask: Tensor | None = None,
    ) -> TowerInputs:
        return TowerInputs(
            tower=tower,
            student=student.float(),
            teacher=self.to_student_space(teacher),
            student_map=maps[0],
            teacher_map=maps[1],
            mask=mask,
            bank=self.to_student_space(self.bank) if self.bank is not None else None,
            logit_scale=self.logit_scale,
            batch=batch,
        )

    @staticmethod
    def _at_width(inputs: TowerInputs, width: int) -> TowerInputs:
        bank = None if inputs.bank is None else inputs.bank[:, :width]
        return replace(
            inputs, student=inputs.student[:, :width], teacher=inputs.teacher[:, :width], bank=bank
        )
