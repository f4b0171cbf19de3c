"""Stage 1 as a task, and the table of its losses. A new loss is one function of `TowerInputs` and one row."""

from collections.abc import Callable, Iterable
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
        statistics: Mean (C,) and scale of the teacher's maps of the data, with `map_whitening: data`.
        mask: Tokens with a target, (T, L), 1 or 0; None for images.
        bank: The teacher's embeddings of M texts in the student's space, (M, D), if a loss has `needs_bank`.
        logit_scale: Factor on the teacher's cosines.
    """

    tower: str
    student: Tensor
    teacher: Tensor
    student_map: Tensor | None
    teacher_map: Tensor | None
    statistics: tuple[Tensor, Tensor] | None
    mask: Tensor | None
    bank: Tensor | None
    logit_scale: float

    def at_width(self, width: int) -> "TowerInputs":
        """The same inputs with the leading dimensions of all embeddings."""
        return replace(
            self,
            student=self.student[:, :width],
            teacher=self.teacher[:, :width],
            bank=None if self.bank is None else self.bank[:, :width],
        )


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
    # the row has needs_map
    assert inputs.student_map is not None and inputs.teacher_map is not None
    dim = 1 if inputs.tower == "vision" else -1
    return feature_map_loss(
        inputs.student_map, inputs.teacher_map, inputs.mask, dim=dim, statistics=inputs.statistics
    )


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
    """The losses that a recipe turns on, in the order of the table."""
    return [loss for loss in DISTILL_LOSSES if getattr(recipe, loss.weight, 0.0)]


class DistillTask(Task):
    """Stage 1: each tower learns from its teacher tower.

    By default, the student's feature map goes through a 1x1 adapter and is compared with the teacher's whitened
    feature map (Smooth-L1), and the student's embedding is compared with the teacher's (cosine distance). A recipe may
    choose a head with a hidden layer, and whitening by statistics of the data, which `measure_maps` takes.

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
        bank: Tensor | None,
        logit_scale: float,
    ):
        learning = tuple(name for tower in recipe.towers for name in LEARNING[tower])
        super().__init__(student, augment, normalize, targets, learning, recipe.freeze)
        self.losses = distill_losses(recipe)
        self.recipe = recipe
        self.towers = recipe.towers
        self.bank = bank
        self.logit_scale = logit_scale
        # a built student has widths; the type of the config allows None
        config: Any = student.config
        self.adapters = nn.ModuleDict()
        # opening the data may have drawn random numbers, as the first run of a cache does
        torch.manual_seed(recipe.seed)
        for tower in self.towers:
            if tower in map_widths and any(loss.needs_map for loss in self.losses):
                width = getattr(config, f"{tower}_width")
                self.adapters[tower] = _make_head(recipe.map_head, tower, width, map_widths[tower])
        self.statistics: dict[str, tuple[Tensor, Tensor]] = {}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of a batch by name; `loss` is their weighted sum."""
        losses: dict[str, Tensor] = {}
        total: Any = 0
        for tower in self.towers:
            inputs = self._inputs(tower, batch)
            for loss in self.losses:
                if loss.needs_map and inputs.student_map is None:
                    continue
                widths = self.widths[-1:] if loss.needs_map else self.widths
                # half precision destroys gradients
                with torch.autocast(inputs.student.device.type, enabled=False):
                    values = [
                        scalar(loss.function(inputs.at_width(width)), loss.name) for width in widths
                    ]
                    value = torch.stack(values).mean()
                losses[f"{tower}_{loss.name}"] = value
                total = total + getattr(self.recipe, loss.weight) * value
        return losses | {"loss": total}

    @torch.no_grad()
    def measure_maps(self, batches: Iterable[Batch]):
        """Take the mean of each channel of the teacher's maps, and the root of their mean variance, from batches.

        Args:
            batches: Batches on the device, before augmentation; the same ones on all processes.
        """
        moments: dict[str, list[Tensor]] = {}
        for batch in batches:
            for tower in self.adapters:
                if tower == "vision":
                    maps = self.targets.images(self.augmented(batch)["images"], batch).required_map
                    states = maps.movedim(1, -1).flatten(0, 2)  # (B x H x W, C)
                else:
                    maps = self.targets.texts(batch).required_map
                    states = maps[batch["attention_mask"][:, : maps.shape[1]].bool()]
                states = states.double()
                parts = [torch.tensor(len(states)), states.sum(0), states.square().sum(0)]
                known = moments.setdefault(tower, [torch.zeros(())] * 3)
                moments[tower] = [sums + part for sums, part in zip(known, parts, strict=True)]
        for tower, (count, total, squares) in moments.items():
            mean = total / count
            scale = (squares / count - mean.square()).mean().sqrt()
            self.statistics[tower] = mean.float(), scale.float()

    def _inputs(self, tower: str, batch: Batch) -> TowerInputs:
        student_map = teacher_map = mask = None
        if tower == "vision":
            targets = self.targets.images(batch["images"], batch)
            outputs = self.student.get_image_features(self.normalize(batch["images"]))
            embeddings = outputs.pooler_output
            if "vision" in self.adapters:  # (B, C, H, W) each
                student_map = self.adapters["vision"](outputs.feature_map)
                teacher_map = targets.required_map
        else:
            targets = self.targets.texts(batch)
            mask = batch["attention_mask"]
            states, embeddings = self.encode_texts(batch["input_ids"], mask, batch["lengths"])
            if "text" in self.adapters:  # (T, L, C) each
                student_map = self.adapters["text"](states)
                # pads the teacher's states, or removes states that are masked in any case
                excess = states.shape[1] - targets.required_map.shape[1]
                teacher_map = nn.functional.pad(targets.required_map, (0, 0, 0, excess))
            if "aligned" in batch:  # captions whose tokens are not the teacher's have no targets
                mask = mask * batch["aligned"][:, None]
        return TowerInputs(
            tower=tower,
            student=embeddings.float(),
            teacher=self.to_student_space(targets.embedding),
            student_map=student_map,
            teacher_map=teacher_map,
            statistics=self.statistics.get(tower),
            mask=mask,
            bank=self.to_student_space(self.bank) if self.bank is not None else None,
            logit_scale=self.logit_scale,
        )


def _make_head(kind: str, tower: str, width: int, teacher_width: int) -> nn.Module:
    """Head from the student's feature map to the teacher's width, over the channels of images or of tokens."""

    def pointwise(inputs: int, outputs: int) -> nn.Module:
        # a 1x1 convolution over tokens is a linear layer
        return nn.Conv2d(inputs, outputs, 1) if tower == "vision" else nn.Linear(inputs, outputs)

    if kind == "linear":
        return pointwise(width, teacher_width)
    norm = nn.GroupNorm(1, teacher_width) if tower == "vision" else nn.LayerNorm(teacher_width)
    return nn.Sequential(
        pointwise(width, teacher_width), norm, nn.GELU(), pointwise(teacher_width, teacher_width)
    )
