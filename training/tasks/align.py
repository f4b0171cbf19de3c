"""Stage 2 as a task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.config import AlignRecipe
from training.data.batch import Batch
from training.data.images import Augment, Normalize
from training.tasks.loss_table import Loss, LossInputs, active_losses
from training.tasks.losses import SIGMOID_BIAS, clamp_logit_scale, map_distances, positives
from training.tasks.task import Task, gather, gather_pairs, scalar
from training.teachers.targets import TargetSource
from training.utils.rng import keyed_uniform

NUM_CLASSES = 160  # random ones of a classifier, whose names each step encodes
NAME_FIELDS = ("input_ids", "attention_mask")
NUM_REHEARSED = {
    "general": 64,
    "photo": 32,
}  # texts and images beyond the data that each step encodes
MAX_LOGIT_SCALE = 100.0  # as in CLIP


@dataclass(frozen=True)
class Rehearsal:
    """Texts or images beyond the data, with the teacher's embeddings of them.

    Args:
        inputs: For texts `input_ids` and `attention_mask`, (N, L) int64, padded on the right. For images `images`,
            (N, 3, S, S) uint8, and, for a student that started as a copy of its teacher, `maps`, the teacher's feature
            maps of them, (N, C, H, W) float16.
        targets: The teacher's embeddings, (N, D) float32.
    """

    inputs: dict[str, Tensor]
    targets: Tensor


@dataclass(frozen=True)
class Classifier:
    """Classifier of images on the teacher's pooled feature map, and the names of its classes in N languages.

    Args:
        weight: (C, D) float32, for the D channels of the map.
        bias: (C,) float32.
        names: `input_ids` and `attention_mask` of the names for the student, (N * C, L) int64, padded on the right:
            all names of the first language, then of the next.
    """

    weight: Tensor
    bias: Tensor
    names: dict[str, Tensor]


class AlignTask(Task):
    """Stage 2: both towers learn which captions match which images.

    The loss is a weighted sum of the rows of `LOSSES` that the recipe turns on: a contrastive loss per language and,
    optionally, losses that keep the student close to its teacher or compare captions across languages. Every loss is
    computed on the batches of all processes, so each process computes the same losses.

    Args:
        student: Model that is trained.
        augment: Augmentation of the images.
        normalize: Normalization with the student's mean and standard deviation.
        targets: Distillation targets; None without a teacher.
        recipe: Recipe with the choice of the loss and the weights.
        languages: Languages of the captions, ISO 639-1 codes; the batch's `language` is an index into this list.
        teacher_logit_scale: Factor on the teacher's cosines.
        rehearsal: Texts for the recipe's `general_weight`, under the name `general`, and images for its
            `photo_weight`, under the name `photo`.
        classifier: Classifier for the recipe's `class_weight`. Its `targets` have a feature map.

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
        languages: list[str],
        teacher_logit_scale: float = 1.0,
        rehearsal: Mapping[str, Rehearsal] | None = None,
        classifier: Classifier | None = None,
    ):
        super().__init__(student, augment, normalize, targets, ("",), recipe.freeze)
        self.losses = active_losses(recipe, languages, targets is not None)
        self.towers = self.teacher_towers = recipe.teacher_towers
        self.recipe, self.languages, self.teacher_logit_scale = (
            recipe,
            languages,
            teacher_logit_scale,
        )
        self.chunk_size = recipe.chunk_size
        if recipe.dropout is not None:
            for module in student.text_model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = recipe.dropout
                elif isinstance(getattr(module, "dropout", None), float):  # CLIP's attention
                    module.dropout = recipe.dropout
        # a bias shifts all similarities equally and has no use after training, so it belongs to the task
        needs_bias = any(loss.needs_bias for loss in self.losses)
        self.needs_teacher = any(loss.needs_teacher for loss in self.losses)
        self.logit_bias = nn.Parameter(torch.tensor(SIGMOID_BIAS)) if needs_bias else None
        self.rehearsed = tuple(rehearsal or {})
        self.batch_number = 0
        for kind, beyond in (rehearsal or {}).items():
            for name, tensor in (beyond.inputs | {"targets": beyond.targets}).items():
                self.register_buffer(f"{kind}_{name}", tensor, persistent=False)
        # a frozen tower whose outputs are cached does not run again
        self.reads_images = not (
            recipe.shares_image_tower and student.config.vision_pooling == "mean"
        )
        if classifier is not None:
            for name, tensor in (
                classifier.names | {"weight": classifier.weight, "bias": classifier.bias}
            ).items():
                self.register_buffer(f"class_{name}", tensor, persistent=False)
        # DistributedDataParallel would broadcast these constants, hundreds of megabytes, at every step
        constants = [name for name, _ in self.named_buffers(recurse=False)]
        self._ddp_params_and_buffers_to_ignore = constants

    def updates_statistics(self, name: str) -> bool:
        """Whether a BatchNorm layer updates its statistics: never if the recipe freezes them."""
        return not self.recipe.freeze_batch_norm and self.learns(name)

    def forward(self, batch: Batch, encode_only: bool = False) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            batch: Batch on the device.
            encode_only: Whether to return the student's outputs instead of the losses.

        Returns:
            Losses by name; `loss` is their weighted sum. With `encode_only`: the embeddings `image` (B, D) and `text`
            (T, D), not normalized, `logit_scale` (scalar factor on cosines) and, if a loss needs them, `logit_bias`,
            and `general` and `teacher_general` (G, D), `photo_general` and `teacher_photo_general` (P, D), the
            distances `photo_map` (P,), and `names` (M, D) of classes.
        """
        images = self.augmented_images(batch) if self.reads_images else batch["images"]
        # the classes whose names are encoded follow from the classifier
        teacher = (
            {}
            if encode_only and not self.recipe.class_weight
            else self.teacher_outputs(batch, images)
        )
        if self.reads_images:
            image = self.student.get_image_features(self.normalize(images)).pooler_output
        else:
            assert self.targets is not None
            pooled = self.targets.images(images, batch).required_map.float().mean((2, 3))
            image = self.student.visual_projection(pooled)[:, : self.student.config.embedding_dim]
        _, text = self.encode_texts(batch)
        outputs = {
            "image": image.float(),
            "text": text.float(),
            "logit_scale": self.student.logit_scale.exp(),
        }
        if self.logit_bias is not None:
            # DDP finds used parameters through the graph of the outputs, so a parameter itself cannot be an output
            outputs["logit_bias"] = self.logit_bias.clone()
        for kind in self.rehearsed:
            outputs |= self._rehearse(kind)
        if self.recipe.class_weight:
            names = {
                name: self.get_buffer(f"class_{name}")[teacher["name_ids"]] for name in NAME_FIELDS
            }
            outputs["names"] = self.encode_texts(cast(Batch, names))[1].float()
        return outputs if encode_only else self.compute_losses(outputs | teacher, batch)

    def before_batch(self, number: int):
        """Set the number of the batch, which keys the draw of texts and images beyond the data."""
        self.batch_number = number

    def _rehearse(self, kind: str) -> dict[str, Tensor]:
        """Embeddings of student and teacher of texts or images that are drawn for this batch, (N, D) each.

        With the teacher's feature maps of images, also the distance of each map, `photo_map` (N,). All processes and
        all chunks of a batch draw the same, so their loss equals the loss of the whole batch.
        """
        targets = self.get_buffer(f"{kind}_targets")
        draws = keyed_uniform(self.recipe.seed, self.batch_number, num=len(targets))[0]
        drawn = torch.from_numpy(draws.argsort()[: NUM_REHEARSED[kind]]).to(targets.device)
        target = self.to_student_space(targets[drawn])
        if kind == "general":
            ids, mask = (
                self.get_buffer(f"general_{name}")[drawn]
                for name in ("input_ids", "attention_mask")
            )
            length = int(mask.sum(1).max())
            text = self.student.get_text_features(ids[:, :length], mask[:, :length]).pooler_output
            return {"general": text.float(), "teacher_general": target}
        student = self.student.get_image_features(
            self.normalize(self.get_buffer("photo_images")[drawn])
        )
        outputs = {"photo_general": student.pooler_output.float(), "teacher_photo_general": target}
        if (maps := self._buffers.get("photo_maps")) is not None:
            outputs["photo_map"] = map_distances(student.feature_map, maps[drawn])
        return outputs

    def _classify(self, feature_map: Tensor) -> dict[str, Tensor]:
        """The classifier's logits for all classes, and the names that are encoded with a batch.

        These are the most probable class of each image and random ones, in every language. All processes and all
        chunks of a batch draw the same, so their union is the whole batch's.
        """
        weight, bias = self.get_buffer("class_weight"), self.get_buffer("class_bias")
        logits = nn.functional.linear(feature_map.float().mean((2, 3)), weight, bias)
        draws = keyed_uniform(self.recipe.seed, self.batch_number, num=len(bias))[0]
        drawn = torch.from_numpy(draws.argsort()[:NUM_CLASSES].copy()).to(bias.device)
        classes = torch.cat([drawn, logits.argmax(1)]).unique()
        starts = torch.arange(len(self.languages), device=bias.device) * len(bias)
        return {"class_logits": logits, "name_ids": (starts[:, None] + classes).flatten()}

    def teacher_outputs(self, batch: Batch, images: Tensor | None = None) -> dict[str, Tensor]:
        """The teacher's embeddings of a batch.

        Args:
            batch: Batch on the device.
            images: Augmented images of the batch, if they are already computed.

        Returns:
            `teacher_image` (B, D) and, for losses with the teacher's captions, `teacher_text` (T, D), not normalized,
            in the student's space; the classifier's `class_logits` (B, C) and the `name_ids` (M,) of the names that
            the student encodes, class + C * language; nothing without a teacher or a loss that needs one.
        """
        if self.targets is None or not self.needs_teacher:
            return {}
        targets = self.targets.images(
            self.augmented_images(batch) if images is None else images, batch
        )
        outputs = {"teacher_image": self.to_student_space(targets.embedding)}
        if "text" in self.teacher_towers:
            outputs["teacher_text"] = self.to_student_space(self.targets.texts(batch).embedding)
        return (
            outputs | self._classify(targets.required_map) if self.recipe.class_weight else outputs
        )

    def compute_losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Losses over the batches of all processes, in float32.

        Args:
            outputs: Outputs of student and teacher for this batch, from `forward` with `encode_only` and
                `teacher_outputs`.
            batch: Batch whose captions and rows determine the matching pairs.

        Returns:
            Losses by name, each the mean over all widths; `loss` is their weighted sum. There is none of a language
            without a caption in the batch.
        """
        with torch.autocast(outputs["image"].device.type, enabled=False):
            pairs = gather_pairs(batch)
            outputs = {
                name: gather(value) if value.ndim else value for name, value in outputs.items()
            }
            inputs = LossInputs.from_outputs(
                outputs,
                teacher_logit_scale=self.teacher_logit_scale,
                positive=positives(
                    pairs["owner"], pairs["caption_ids"], len(outputs["image"]), pairs["rows"]
                ),
                language=pairs["language"],
                num_languages=len(self.languages),
            )
            values = [self._weighted_sum(inputs.at_width(width)) for width in self.widths]
            return {
                name: torch.stack([value[name] for value in values]).mean() for name in values[0]
            }

    def _weighted_sum(self, inputs: LossInputs) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        total: Any = 0
        num_present = 0  # languages with a caption in the batch
        for number, language in enumerate(self.languages):
            captions = inputs.for_language(number)
            if len(captions.language) == 0:
                continue
            num_present += 1
            for loss in self.losses:
                if loss.per_language:
                    total = total + loss.weight_in(self.recipe) * _add(
                        values, loss, captions, f"_{language}"
                    )
        total = total / max(
            1, num_present
        )  # a batch without some of the languages has the same total weight
        for loss in self.losses:
            if not loss.per_language:
                total = total + loss.weight_in(self.recipe) * _add(values, loss, inputs)
        return values | {"loss": total}

    def after_step(self):
        """Clamp the logit scale."""
        clamp_logit_scale(self.student.logit_scale, MAX_LOGIT_SCALE)


def _add(values: dict[str, Tensor], loss: Loss, inputs: LossInputs, suffix: str = "") -> Tensor:
    """Compute a loss, add it to the logged values, and return the sum of its parts."""
    result = loss.function(inputs)
    parts = result if isinstance(result, dict) and result else {"": result}
    total, *others = (scalar(value, loss.name) for value in parts.values())
    names = (f"{loss.name}_{part}{suffix}" if part else f"{loss.name}{suffix}" for part in parts)
    values.update(zip(names, (total, *others), strict=True))
    return sum(others, total)
