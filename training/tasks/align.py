"""Stage 2 as a task."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.config import AlignRecipe
from training.data.batch import Batch
from training.data.transforms import Augment, Normalize
from training.tasks.gather import gather, gather_pairs
from training.tasks.loss_table import Loss, LossInputs, active_losses
from training.tasks.losses import SIGMOID_BIAS, clamp_logit_scale, map_distances, positives
from training.tasks.task import Task
from training.teachers.classifier import ClassTargets
from training.teachers.targets import TargetSource
from training.utils.rng import keyed_uniform

GENERAL_TEXTS, GENERAL_IMAGES, CLASS_NAMES = 64, 32, 64  # encoded at each step


@dataclass(frozen=True)
class GeneralTexts:
    """Texts beyond the data, with the teacher's embeddings of them.

    Args:
        input_ids: Token ids of the student, (N, L) int64, padded on the right.
        attention_mask: 1 for each token and 0 for padding, (N, L) int64.
        targets: Embeddings by the teacher, (N, D) float32.
    """

    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor


@dataclass(frozen=True)
class GeneralImages:
    """Images beyond the data, with the teacher's embeddings of them.

    Args:
        images: (N, 3, S, S) uint8.
        targets: Embeddings by the teacher, (N, D) float32.
        maps: Feature maps by the teacher, (N, C, H, W) float16, for a student that started as a copy of it; otherwise
            None.
    """

    images: Tensor
    targets: Tensor
    maps: Tensor | None = None


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
        general: Texts for the recipe's `general_weight`; None if it is 0.
        photos: Images for the recipe's `photo_weight`; None if it is 0.
        classes: Classifier for the recipe's `classifier_weight`; None if it is 0.

    Raises:
        ValueError: The recipe weights a language that the data lack, or leaves one out; or it weights a loss that
            needs a teacher or a second language, and there is none.
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
        general: GeneralTexts | None = None,
        photos: GeneralImages | None = None,
        classes: ClassTargets | None = None,
    ):
        super().__init__(student, augment, normalize, targets, ("",), recipe.freeze)
        self.losses = active_losses(recipe, languages, targets is not None)
        self.recipe, self.languages, self.teacher_logit_scale = recipe, languages, teacher_logit_scale
        self.chunk_size = recipe.chunk_size
        # a bias shifts all similarities equally and has no use after training, so it belongs to the task
        needs_bias = any(loss.needs_bias for loss in self.losses)
        self.logit_bias = nn.Parameter(torch.tensor(SIGMOID_BIAS)) if needs_bias else None
        self.has_general, self.has_photos = general is not None, photos is not None
        self.classes = classes  # its model is no submodule, because it is never trained
        self.classifier_revision = classes.classifier.revision if classes is not None else None
        text_tower = (*student.text_model.parameters(), *student.text_projection.parameters())
        self.learns_names = classes is not None and any(parameter.requires_grad for parameter in text_tower)
        classified = torch.tensor([source.classify for source in recipe.data.mixture])
        self.register_buffer("classified", classified, persistent=False)
        self.batch_number = 0
        for kind, tensors in (("general", general), ("photo", photos)):
            for name, tensor in (vars(tensors) if tensors is not None else {}).items():
                self.register_buffer(f"{kind}_{name}", tensor, persistent=False)
        if classes is not None:
            self.register_buffer("class_names", classes.names.clone())  # renewed in training, so a checkpoint has it
            self.register_buffer("class_input_ids", classes.input_ids, persistent=False)
            self.register_buffer("class_attention_mask", classes.attention_mask, persistent=False)
        # DistributedDataParallel would broadcast these constants, hundreds of megabytes, at every step
        constants = [name for name, _ in self.named_buffers(recurse=False)]
        self._ddp_params_and_buffers_to_ignore = constants

    def updates_statistics(self, name: str) -> bool:
        """Whether a BatchNorm layer updates its statistics: never if the recipe freezes them.

        Args:
            name: Name of the layer in the student.
        """
        return not self.recipe.freeze_batch_norm and self.learns(name)

    def forward(self, batch: Batch, encode_only: bool = False) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            batch: Batch on the device.
            encode_only: Whether to return the student's outputs instead of the losses.

        Returns:
            Losses by name; `loss` is their weighted sum. With `encode_only`: the embeddings `image` (B, D) and `text`
            (T, D), not normalized, `logit_scale` (scalar factor on cosines) and, if a loss needs them, `logit_bias`,
            and `general` and `teacher_general` (G, D), `photo_general` and `teacher_photo_general` (P, D), and the
            distances `photo_map` (P,), and `class_names` (L * N, D) of classes that are drawn for this batch.
        """
        images = self.augmented_images(batch)
        image = self.student.get_image_features(self.normalize(images)).pooler_output
        _, text = self.encode_texts(batch)
        outputs = {"image": image.float(), "text": text.float(), "logit_scale": self.student.logit_scale.exp()}
        if self.logit_bias is not None:
            # DDP finds used parameters through the graph of the outputs, so a parameter itself cannot be an output
            outputs["logit_bias"] = self.logit_bias.clone()
        if self.has_general:
            outputs |= self._general_outputs()
        if self.has_photos:
            outputs |= self._photo_outputs()
        if self.learns_names:
            outputs["class_names"] = self._encode_names()
        if encode_only:
            return outputs
        return self.compute_losses(outputs | self.teacher_outputs(batch, images), batch)

    def before_batch(self, number: int):
        """Set the number of the batch, which keys the draw of general texts, images and names of classes."""
        self.batch_number = number

    def _general_outputs(self) -> dict[str, Tensor]:
        """Embeddings `general` of randomly drawn general texts, and `teacher_general`, both (G, D).

        All processes and all chunks of a batch draw the same texts, so that their loss is that of the whole batch.
        """
        ids, mask = self.get_buffer("general_input_ids"), self.get_buffer("general_attention_mask")
        drawn = self._draw(len(ids), GENERAL_TEXTS).to(ids.device)
        targets = self.to_student_space(self.get_buffer("general_targets")[drawn])
        return {"general": self._encode_tokens(ids[drawn], mask[drawn]), "teacher_general": targets}

    def _photo_outputs(self) -> dict[str, Tensor]:
        """The same of randomly drawn general images: `photo_general` and `teacher_photo_general`, both (P, D).

        With the teacher's feature maps of them, also the distance of each map, `photo_map` (P,).
        """
        images = self.get_buffer("photo_images")
        drawn = self._draw(len(images), GENERAL_IMAGES).to(images.device)
        student = self.student.get_image_features(self.normalize(images[drawn]))
        targets = self.to_student_space(self.get_buffer("photo_targets")[drawn])
        outputs = {"photo_general": student.pooler_output.float(), "teacher_photo_general": targets}
        if (maps := self._buffers["photo_maps"]) is not None:
            outputs["photo_map"] = map_distances(student.feature_map, maps[drawn])
        return outputs

    def _encode_names(self) -> Tensor:
        """Embeddings of the names of some classes in every language, (L * N, D); the prompts take turns.

        The other names keep the embedding of the step that last encoded them.
        """
        ids, mask = self.get_buffer("class_input_ids"), self.get_buffer("class_attention_mask")
        prompt, drawn = self.batch_number % ids.shape[1], self._drawn_classes
        return self._encode_tokens(ids[:, prompt, drawn].flatten(0, 1), mask[:, prompt, drawn].flatten(0, 1))

    def _encode_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embeddings by the student, (N, D) float32, of tokens (N, L) without the padding that all of them have."""
        length = int(mask.sum(1).max())
        return self.student.get_text_features(ids[:, :length], mask[:, :length]).pooler_output.float()

    @property
    def _drawn_classes(self) -> Tensor:
        """The classes whose names are encoded for this batch, (N,) int64."""
        names = self.get_buffer("class_names")
        return self._draw(names.shape[1], CLASS_NAMES).to(names.device)

    def _renew_names(self, encoded: Tensor) -> Tensor:
        """The names of all classes, (L, C, D), with gradient in those of this batch, which replace the stored ones.

        Args:
            encoded: Their embeddings, (K * L * N, D), the same from each of K processes and chunks.
        """
        names, drawn = self.get_buffer("class_names"), self._drawn_classes
        encoded = nn.functional.normalize(encoded.unflatten(0, (-1, len(names), len(drawn))).mean(0), dim=-1)
        renewed = names.index_copy(1, drawn, encoded)
        names.copy_(renewed.detach())
        return renewed

    def _draw(self, number: int, drawn: int) -> Tensor:
        """Draw some of a number of rows for this batch, without repetition, (drawn,) int64."""
        draws = keyed_uniform(self.recipe.seed, self.batch_number, num=number)[0]
        return torch.from_numpy(draws.argsort()[:drawn])

    def teacher_outputs(self, batch: Batch, images: Tensor | None = None) -> dict[str, Tensor]:
        """The teacher's embeddings of a batch, and the classifier's probabilities.

        Args:
            batch: Batch on the device.
            images: Augmented images of the batch, if they are already computed.

        Returns:
            `teacher_image` (B, D) and `teacher_text` (T, D), not normalized, in the student's space, with a teacher;
            `class_probabilities` (B, C) with a classifier.
        """
        outputs = {} if self.classes is None else {"class_probabilities": self._probabilities(self.classes, batch)}
        if self.targets is None:
            return outputs
        image = self.targets.images(self.augmented_images(batch) if images is None else images, batch).embedding
        text = self.targets.texts(batch).embedding
        return outputs | {"teacher_image": self.to_student_space(image), "teacher_text": self.to_student_space(text)}

    def _probabilities(self, classes: ClassTargets, batch: Batch) -> Tensor:
        """The classifier's probabilities, (B, C); 0 for images of sources that it does not see.

        It sees the images without augmentation, so that a photograph redrawn as a painting keeps its classes.
        """
        images, seen = batch["images"], self.get_buffer("classified")[batch["sources"]]
        probabilities = torch.zeros(len(images), classes.names.shape[1], device=images.device)
        if seen.any():
            probabilities[seen] = classes.classifier.probabilities(images[seen])
        return probabilities

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
            outputs = {name: gather(value) if value.ndim else value for name, value in outputs.items()}
            class_names = self._buffers.get("class_names")
            if (encoded := outputs.pop("class_names", None)) is not None:
                class_names = self._renew_names(encoded)
            inputs = LossInputs.from_outputs(
                outputs,
                teacher_logit_scale=self.teacher_logit_scale,
                positive=positives(pairs["owner"], pairs["caption_ids"], len(outputs["image"]), pairs["rows"]),
                language=pairs["language"],
                num_languages=len(self.languages),
                class_names=class_names,
            )
            values = [self._weighted_sum(inputs.at_width(width)) for width in self.widths]
            return {name: torch.stack([value[name] for value in values]).mean() for name in values[0]}

    def _weighted_sum(self, inputs: LossInputs) -> dict[str, Tensor]:
        weights = self.recipe.language_weights
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
                    value = _add(values, loss, captions, f"_{language}")
                    total = total + loss.weight_in(self.recipe) * weights[language] * value
        # the weighted mean over languages; a batch without some of them has the same total weight
        total = total / (sum(weights.values()) * max(1, num_present) / len(self.languages))
        for loss in self.losses:
            if not loss.per_language:
                total = total + loss.weight_in(self.recipe) * _add(values, loss, inputs)
        return values | {"loss": total}

    def after_rotation(self, rotation: Tensor):
        """Rotate the embeddings of class names, which the student computed before."""
        if self.classes is not None:
            names = self.get_buffer("class_names")
            names.copy_(names @ rotation.to(names))

    def after_step(self):
        """Clamp the logit scale."""
        clamp_logit_scale(self.student.logit_scale, self.recipe.max_logit_scale)


def _add(values: dict[str, Tensor], loss: Loss, inputs: LossInputs, suffix: str = "") -> Tensor:
    """Compute a loss, add it to the logged values, and return the sum of its parts."""
    result = loss.function(inputs)
    parts = result if isinstance(result, dict) else {"": result}
    values.update({f"{loss.name}_{part}{suffix}" if part else f"{loss.name}{suffix}": v for part, v in parts.items()})
    first, *others = parts.values()
    return sum(others, first)
