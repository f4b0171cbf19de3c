"""Stage 2 as a task."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.config import AlignRecipe
from training.data.batch import Batch
from training.data.images import Augment, Normalize
from training.tasks.loss import Captions, LossInputs, OwnInputs
from training.tasks.loss_table import active_losses
from training.tasks.losses import SIGMOID_BIAS, positives
from training.tasks.spread import gather, gather_on_host, gather_sizes
from training.tasks.task import Task, scalar
from training.teachers.targets import TargetSource

MAX_LOGIT_SCALE = 100.0  # as in CLIP
PAIR = ("image", "text", "teacher_image", "teacher_text")  # outputs that losses compare by name


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
        recipe: Recipe with the choice of the loss and the weights.
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
        # a bias shifts all similarities equally and has no use after training, so it belongs to the task
        needs_bias = any(loss.needs_bias for loss in self.losses)
        self.needs_teacher = any(loss.needs_teacher for loss in self.losses)
        self.needs_map = any(loss.needs_map for loss in self.losses)
        self.logit_bias = nn.Parameter(torch.tensor(SIGMOID_BIAS)) if needs_bias else None
        self.own_inputs: Any = nn.ModuleDict(own_inputs)
        # DistributedDataParallel would broadcast these constants, hundreds of megabytes, at every step
        self._ddp_params_and_buffers_to_ignore = [
            f"own_inputs.{name}" for name, _ in self.own_inputs.named_buffers()
        ]
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
            (T, D), not normalized, `logit_scale` (scalar factor on cosines), `logit_bias` if a loss needs it, and the
            outputs of the losses' own inputs.
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
        outputs = {
            "image": image.float(),
            "text": text.float(),
            "logit_scale": self.student.logit_scale.exp(),
        }
        if self.logit_bias is not None:
            # DDP finds used parameters through the graph of the outputs, so a parameter itself cannot be an output
            outputs["logit_bias"] = self.logit_bias.clone()
        return outputs

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
        fields = batch["rows"], batch["owner"], batch["caption_ids"], batch["language"]
        rows, owners, caption_ids, language = zip(*gather_on_host(fields), strict=True)
        image_starts = np.cumsum([0, *map(len, rows)]).tolist()
        text_starts = np.cumsum([0, *map(len, owners)]).tolist()
        rank = dist.get_rank() if dist.is_initialized() else 0
        own_texts = slice(*text_starts[rank : rank + 2])
        owner = [part + start for part, start in zip(owners, image_starts, strict=False)]
        sizes = gather_sizes(outputs)
        outputs = {
            name: gather(value, sizes[name]) if value.ndim else value
            for name, value in outputs.items()
        }
        languages = []
        for number in range(len(self.languages)):
            index = np.flatnonzero(torch.cat(language).numpy() == number)
            first, stop = np.searchsorted(index, [own_texts.start, own_texts.stop]).tolist()
            on_device = self.on_device(torch.from_numpy(index))
            languages.append(Captions(on_device, slice(first, stop)))
        return LossInputs(
            embeddings={name: outputs.pop(name) for name in PAIR if name in outputs},
            width=self.widths[-1],
            logit_scale=outputs.pop("logit_scale"),
            logit_bias=outputs.pop("logit_bias", None),
            extra=outputs,
            positive=positives(
                torch.cat(rows), torch.cat(owner), torch.cat(caption_ids), self.student.device
            ),
            languages=languages,
            own_images=slice(*image_starts[rank : rank + 2]),
            own_texts=own_texts,
            num_processes=len(rows),
        )

    def _losses(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Losses at one width by name; a batch without some of the languages has the same total weight."""
        in_language = {}
        for language, captions in zip(self.languages, inputs.languages, strict=True):
            if len(captions.index):
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
