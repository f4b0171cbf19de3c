"""Stage 1 as a task."""

from typing import Any

from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.config import DistillRecipe
from training.data.transforms import Augment, Normalize
from training.tasks.losses import bank_loss, embedding_loss, feature_map_loss
from training.tasks.task import Task
from training.teachers.targets import TargetSource


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
        vision_width: channels of the teacher's image map.
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
        images = self.augmented_images(batch)
        targets = self.targets.images(images, batch)
        outputs = self.student.get_image_features(self.normalize(images))
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
