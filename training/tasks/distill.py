"""Stage 1 as a task."""

from typing import Any

import torch
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.config import DistillRecipe
from training.data.batch import Batch
from training.data.images import Augment, Normalize
from training.tasks.losses import bank_loss, embedding_loss, feature_map_loss
from training.tasks.task import Task
from training.teachers.targets import TargetSource


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
        recipe: Recipe with the towers, the target and the weights.
        vision_width: Number of channels of the teacher's image feature map.
        text_width: Width of the teacher's token states; None if student and teacher have different tokens, so that
            only the embedding is a target.
        bank: Teacher embeddings of N texts, (N, D), for the target `logits`.
        logit_scale: Factor on the teacher's cosines, for the target `logits`.

    Raises:
        ValueError: The recipe has no adapter and the widths differ, or the target `logits` has no bank.
    """

    targets: TargetSource

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
        modules = {"vision": ("vision_model.", "visual_projection."), "text": ("text_model.", "text_projection.")}
        learning = tuple(module for tower in recipe.towers for module in modules[tower])
        super().__init__(student, augment, normalize, targets, learning, recipe.freeze)
        if recipe.target == "logits" and bank is None:
            raise ValueError("bank: the target 'logits' needs the embeddings of a bank of texts. Give bank.")
        self.recipe, self.bank, self.logit_scale, self.towers = recipe, bank, logit_scale, recipe.towers
        config: Any = student.config  # a built student has widths; the type of the config allows None
        self.vision_adapter: nn.Module | None = None
        self.text_adapter: nn.Module | None = None
        if recipe.target == "feature_map" and "vision" in recipe.towers:
            self.vision_adapter = self._adapter("vision", config.vision_width, vision_width)
        if recipe.target == "feature_map" and "text" in recipe.towers and text_width is not None:
            self.text_adapter = self._adapter("text", config.text_width, text_width)

    def _adapter(self, tower: str, width: int, teacher_width: int) -> nn.Module:
        if self.recipe.adapter:
            # a 1x1 convolution over tokens is a linear layer
            return nn.Conv2d(width, teacher_width, 1) if tower == "vision" else nn.Linear(width, teacher_width)
        if width != teacher_width:
            raise ValueError(
                f"adapter: without one the maps must be equally wide, but the student's {tower} map has {width} "
                f"channels and the teacher's {teacher_width}. Leave adapter on, or give the student the teacher's "
                "width."
            )
        return nn.Identity()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of a batch by name; `loss` is their weighted sum."""
        losses: dict[str, Tensor] = {}
        if "vision" in self.recipe.towers:
            losses |= self._vision(batch)
        if "text" in self.recipe.towers:
            losses |= self._text(batch)
        weights = {"map": self.recipe.map_weight, "embedding": 1.0, "logits": 1.0}
        weighted = [weights[name.rsplit("_", 1)[1]] * value for name, value in losses.items()]
        return losses | {"loss": sum(weighted[1:], weighted[0])}

    def _vision(self, batch: Batch) -> dict[str, Tensor]:
        images = self.augmented_images(batch)
        targets = self.targets.images(images, batch)
        outputs = self.student.get_image_features(self.normalize(images))
        losses = self._pooled("vision", outputs.pooler_output, targets.embedding)
        if self.vision_adapter is not None:
            adapted = self.vision_adapter(outputs.feature_map)  # (B, teacher_width, H, W)
            losses["vision_map"] = self._map_loss(adapted, targets.required_map, dim=1)
        return losses

    def _text(self, batch: Batch) -> dict[str, Tensor]:
        targets = self.targets.texts(batch)
        states, embeddings = self.encode_texts(batch)
        losses = self._pooled("text", embeddings, targets.embedding)
        if self.text_adapter is not None:
            mask = batch["attention_mask"]
            if "aligned" in batch:  # captions that a cut vocabulary splits into other pieces have no token targets
                mask = mask * batch["aligned"][:, None]
            # pads the teacher's states to the student's length, or removes states that are masked in any case
            excess = states.shape[1] - targets.required_map.shape[1]
            target = nn.functional.pad(targets.required_map, (0, 0, 0, excess))  # (T, L, teacher_width)
            losses["text_map"] = self._map_loss(self.text_adapter(states), target, mask, dim=-1)
        return losses

    def _pooled(self, tower: str, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        with torch.autocast(student.device.type, enabled=False):  # half precision destroys the gradients of logits
            student, teacher = student.float(), teacher.float()
            if self.bank is not None and self.recipe.target == "logits":
                return {f"{tower}_logits": bank_loss(student, teacher, self.bank, self.logit_scale)}
            has_target = teacher.any(1)  # a caption that no teacher encodes has zeros
            if not has_target.all():
                student, teacher = student[has_target], teacher[has_target]
            teacher = self.to_student_space(teacher)
            values = [embedding_loss(student[:, :width], teacher[:, :width]) for width in self.widths]
            return {f"{tower}_embedding": torch.stack(values).mean()}

    def _map_loss(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, dim: int = 1) -> Tensor:
        return feature_map_loss(student, teacher, mask, dim=dim, whitened=self.recipe.whiten)
