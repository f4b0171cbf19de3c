"""Loss on class names: similarities to them follow an image classifier on the teacher's tower."""

import json

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from training.config import AlignRecipe
from training.data import tokenize
from training.tasks.losses import LossInputs, class_loss
from training.tasks.task import Models, OwnInputs, Task
from training.teachers.targets import TargetSource

NUM_DRAWN = 160  # random classes of a step, in addition to the most probable class of each image
LOGIT_SCALE = 40.0  # factor on cosines; a sharper softmax than a small batch of captions needs


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
        if recipe.classifier is None:
            raise ValueError(
                f"classifier: none is named, but class_weight is {recipe.class_weight}. Name a file."
            )
        try:
            weight, bias, names = read_classifier(recipe.classifier)
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
