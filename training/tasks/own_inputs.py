"""Losses of stage 2 with texts or images of their own: general texts, general images, class names."""

import json

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm.auto import tqdm

from training.config import AlignRecipe
from training.data import tokenize
from training.general_images import photo_crops, vary_images
from training.tasks.losses import LossInputs, class_loss, embedding_loss, map_distances
from training.tasks.task import Models, Task
from training.teachers.targets import LiveTargets, TargetSource, encode_bank
from training.text.scenes import FORMS, scenes

NUM_SCENES = 1000  # sentences of each language
NUM_TEXTS = 64  # general texts that each step encodes
IMAGES_AT_ONCE = 32  # general images that the teacher encodes at once
NUM_IMAGES = 32  # general images that each step encodes
NUM_DRAWN = 160  # random classes of a step, in addition to the most probable class of each image
LOGIT_SCALE = 40.0  # factor on cosines; a sharper softmax than a small batch of captions needs


class OwnInputs(nn.Module):
    """A loss with texts or images of its own, beyond the batch.

    It is called with `LossInputs` and returns its value as a function of `LOSSES` does.

    Args:
        tensors: Tensors by name. They are buffers that are not saved, and move to the device with the task.
    """

    def __init__(self, **tensors: Tensor | None):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    @classmethod
    def prepare(
        cls, recipe: AlignRecipe, models: Models, targets: TargetSource, device: torch.device
    ) -> "OwnInputs":
        """Make the inputs once, before training.

        Args:
            recipe: Recipe of stage 2, whose weight of this loss is not 0.
            models: Student, processor and teacher.
            targets: Distillation targets of the run.
            device: Device that the teacher runs on.
        """
        raise NotImplementedError

    def encode(self, task: Task, teacher: dict[str, Tensor]) -> dict[str, Tensor]:
        """Encode the inputs of a step with the student, and return float32 tensors by name for `LossInputs.extra`.

        With gradient caching it is called twice for a batch and must draw the same inputs, such as by `task.draw`.
        All processes return the same names; their rows are concatenated.

        Args:
            task: Task with the student.
            teacher: The teacher's outputs of all images of this process, as `AlignTask.teacher_outputs` returns them.
        """
        raise NotImplementedError


class GeneralTexts(OwnInputs):
    """Cosine distance to the teacher's embeddings of general texts.

    Args:
        tokens: `input_ids` and `attention_mask` of the texts, (N, L) int64, padded on the right.
        targets: The teacher's embeddings of them, (N, D) float32.
    """

    def __init__(self, tokens: dict[str, Tensor], targets: Tensor):
        super().__init__(**tokens, targets=targets)
        self.lengths = tokens["attention_mask"].sum(1)  # stay on the host

    @classmethod
    def prepare(
        cls, recipe: AlignRecipe, models: Models, targets: TargetSource, device: torch.device
    ) -> "GeneralTexts":
        """Encode class names and sentences in the student's languages with the teacher."""
        # most runs need neither evaluation nor its packages
        from training.evaluation.sets.class_names import general_pairs

        assert models.teacher is not None  # the row has needs_teacher
        config = models.student.config
        texts = list(general_pairs(config.languages, held_out=False).texts)
        for language in config.languages:
            if language in FORMS:
                texts += scenes(language, NUM_SCENES)
        tokens = tokenize(models.processor.tokenizer, texts, config.max_text_length)
        return cls(tokens, encode_bank(models.teacher.with_towers(("text",)).to(device), texts))

    def encode(self, task: Task, teacher: dict[str, Tensor]) -> dict[str, Tensor]:
        """Embeddings of student and teacher of drawn texts, `general` and `teacher_general` (n, D)."""
        drawn = task.draw(len(self.lengths), NUM_TEXTS)
        index = task.on_device(drawn)
        ids = self.get_buffer("input_ids")[index]
        mask = self.get_buffer("attention_mask")[index]
        return {
            "general": task.encode_texts(ids, mask, self.lengths[drawn])[1].float(),
            "teacher_general": task.to_student_space(self.get_buffer("targets")[index]),
        }

    def forward(self, inputs: LossInputs) -> Tensor:
        """The mean cosine distance."""
        return embedding_loss(inputs.cut("general"), inputs.cut("teacher_general"))


class GeneralPhotos(OwnInputs):
    """Cosine distance to the teacher's embeddings of general images, and the distance to its feature maps of them.

    Args:
        images: (N, 3, S, S) uint8.
        targets: The teacher's embeddings of them, (N, D) float32.
        maps: The teacher's feature maps of them, (N, C, H, W) float16, for a student that started as a copy of its
            teacher; None for others.
    """

    def __init__(self, images: Tensor, targets: Tensor, maps: Tensor | None = None):
        super().__init__(images=images, targets=targets, maps=maps)
        self.maps: Tensor | None

    @classmethod
    @torch.inference_mode()
    def prepare(
        cls, recipe: AlignRecipe, models: Models, targets: TargetSource, device: torch.device
    ) -> "GeneralPhotos":
        """Encode varied crops of a few photographs with the teacher."""
        images = vary_images(photo_crops(models.student.config.image_size))
        has_maps = recipe.starts_from_teacher and recipe.image_size is None
        embeddings = []
        maps = []
        for part in tqdm(images.split(IMAGES_AT_ONCE), "general images", unit="batch", leave=False):
            pixels = part.to(device).float()
            if has_maps and isinstance(targets, LiveTargets):
                found = targets.teacher.image_targets(targets.normalize(pixels))
                maps.append(found.required_map.half())
            else:
                found = targets.images(pixels, {})
            embeddings.append(found.embedding.float())
        return cls(images, torch.cat(embeddings), torch.cat(maps) if maps else None)

    def encode(self, task: Task, teacher: dict[str, Tensor]) -> dict[str, Tensor]:
        """Embeddings of student and teacher of drawn images, `photo` and `teacher_photo` (n, D), and `photo_map` (n,),
        the distance of each feature map.
        """
        images = self.get_buffer("images")
        targets = self.get_buffer("targets")
        drawn = task.on_device(task.draw(len(images), NUM_IMAGES))
        student = task.student.get_image_features(task.normalize(images[drawn]))
        outputs = {
            "photo": student.pooler_output.float(),
            "teacher_photo": task.to_student_space(targets[drawn]),
        }
        if self.maps is not None:
            outputs["photo_map"] = map_distances(student.feature_map, self.maps[drawn])
        return outputs

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """The mean distances of embeddings and, if there are any, of maps."""
        parts = {"embedding": embedding_loss(inputs.cut("photo"), inputs.cut("teacher_photo"))}
        if "photo_map" in inputs.extra:
            parts["map"] = inputs.extra["photo_map"].mean()
        return parts


class ClassifierNames(OwnInputs):
    """Divergence from the probabilities of a classifier to the student's similarities to the names of its classes.

    Each step encodes the names of random classes and of the most probable class of each image, in every language.

    Args:
        weight: Weight of the classifier on the mean of the teacher's feature map, (C, D) float32.
        bias: Bias of the classifier, (C,) float32.
        names: `input_ids` and `attention_mask` of the names for the student, (N * C, L) int64, padded on the right:
            all names of the first of N languages, then of the next.
        batch_size: Images in a batch. If random classes and these images can be all C classes, all are encoded.
    """

    def __init__(self, weight: Tensor, bias: Tensor, names: dict[str, Tensor], batch_size: int):
        super().__init__(**names, weight=weight, bias=bias)
        self.num_classes = len(bias)
        self.num_languages = len(names["input_ids"]) // self.num_classes
        draws_all = NUM_DRAWN + batch_size >= self.num_classes
        self.num_drawn = self.num_classes if draws_all else NUM_DRAWN
        self.lengths = names["attention_mask"].sum(1)  # stay on the host

    @classmethod
    def prepare(
        cls, recipe: AlignRecipe, models: Models, targets: TargetSource, device: torch.device
    ) -> "ClassifierNames":
        """Read the recipe's classifier, and tokenize its class names.

        Raises:
            ValueError: The file is missing, damaged or incomplete, or does not fit the teacher's image tower.
        """
        assert models.teacher is not None  # the row has needs_teacher
        try:
            weight, bias, names = read_classifier(str(recipe.classifier))
            listed = [names[language] for language in recipe.data.languages]
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
            raise ValueError(
                f"classifier: {recipe.classifier!r} cannot be read ({error!r}). Expected a safetensors file with "
                f"weight, bias and the metadata `names`, which has {' and '.join(recipe.data.languages)}."
            ) from error
        width = models.teacher.vision_width
        if weight.shape != (len(bias), width) or any(len(each) != len(bias) for each in listed):
            raise ValueError(
                f"classifier: {recipe.classifier!r} has a weight of {tuple(weight.shape)}, {len(bias)} biases and "
                f"{[len(each) for each in listed]} names; the teacher's image map has {width} channels. Name the "
                "classifier of this image tower."
            )
        texts = [text for each in listed for text in each]
        tokens = tokenize(models.processor.tokenizer, texts, models.student.config.max_text_length)
        return cls(weight, bias, tokens, recipe.batch_size)

    def encode(self, task: Task, teacher: dict[str, Tensor]) -> dict[str, Tensor]:
        """Random classes, `classes` (n,) int64, with the embeddings of their names, `names` (n, N, D); if these are
        not all, also the most probable class of each image, `top` (B,) int64, and `top_names` (B, N, D).
        """
        drawn = task.draw(self.num_classes, self.num_drawn)
        classes = task.on_device(drawn)
        outputs = {"classes": classes, "names": self._encode_names(task, classes, drawn)}
        if self.num_drawn < self.num_classes:
            top = self._logits(teacher["teacher_map"]).argmax(1)
            # a GPU would wait for the classes, and a CPU pays for padding
            on_host = top if top.device.type == "cpu" else None
            outputs |= {"top": top, "top_names": self._encode_names(task, top, on_host)}
        return outputs

    def _encode_names(self, task: Task, classes: Tensor, on_host: Tensor | None) -> Tensor:
        """Embeddings of the names of classes, (n,) int64, in all languages, (n, N, D)."""
        starts = self.num_classes * torch.arange(self.num_languages)
        index = (classes[:, None] + task.on_device(starts)).flatten()
        ids = self.get_buffer("input_ids")[index]
        mask = self.get_buffer("attention_mask")[index]
        if on_host is None:
            lengths = torch.full((len(ids),), ids.shape[1])
        else:
            lengths = self.lengths[(on_host[:, None] + starts).flatten()]
        embeddings = task.encode_texts(ids, mask, lengths)[1].float()
        return embeddings.unflatten(0, (-1, self.num_languages))

    def _logits(self, pooled: Tensor) -> Tensor:
        """The classifier's logits (B, C) of the means of feature maps (B, D)."""
        return nn.functional.linear(pooled, self.get_buffer("weight"), self.get_buffer("bias"))

    def forward(self, inputs: LossInputs) -> Tensor:
        """The mean divergence over images and languages."""
        # the other processes drew the same classes
        names = inputs.extra["names"][: self.num_drawn]
        classes = inputs.extra["classes"][: self.num_drawn]
        is_copy = None
        if "top" in inputs.extra:
            names = torch.cat([names, inputs.extra["top_names"]])
            classes = torch.cat([classes, inputs.extra["top"]])
            is_copy = (classes[:, None] == classes).tril(-1).any(1)  # the first name counts
        return class_loss(
            inputs.embeddings["image"],
            names[..., : inputs.width].movedim(1, 0),
            self._logits(inputs.extra["teacher_map"])[:, classes],
            LOGIT_SCALE,
            is_copy,
        )


def read_classifier(path: str) -> tuple[Tensor, Tensor, dict[str, list[str]]]:
    """Read a classifier: its weight (C, D), its bias (C,), both float32, and the names of its classes by language."""
    with safe_open(path, "pt") as file:
        names = json.loads(file.metadata()["names"])
        return file.get_tensor("weight").float(), file.get_tensor("bias").float(), names
