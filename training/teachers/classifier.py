"""A frozen image classifier that serves as a teacher of its classes.

An image tower that starts from a classifier, such as one with ImageNet weights, recognizes its classes. Training on
captions alone makes it forget the classes that no caption names, and the names in the text tower drift.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

from training.data.transforms import Normalize
from training.teachers.encoders import open_processors
from training.teachers.lineage import digest_folder, find_commit
from training.teachers.loading import check_complete
from training.teachers.preparation import processor_size

FIELD = "classifier"


def find_classifier(name: str) -> str | None:
    """Look up the commit of a classifier.

    Args:
        name: Folder or Hub id.

    Returns:
        The commit; None for a folder.

    Raises:
        ValueError: Neither the Hub nor its local cache has the model.
    """
    try:
        return find_commit(name)
    except OSError as error:
        raise ValueError(f"{FIELD}: {name!r} is neither a folder nor on the Hub. ({error})") from error


@dataclass(frozen=True, eq=False)
class Classifier:
    """A classifier that is not trained.

    Args:
        model: Image classifier of transformers, in eval mode.
        normalize: Its input size, mean and standard deviation.
        revision: Commit of a Hub id, or digest of the weights in a folder.
    """

    model: PreTrainedModel
    normalize: Normalize
    revision: str

    @classmethod
    def from_pretrained(cls, name: str, dtype: torch.dtype, device: torch.device) -> "Classifier":
        """Load a classifier.

        Args:
            name: Folder or Hub id of an image classifier of transformers, timm models included.
            dtype: Precision of weights and activations.
            device: Device on which it runs.

        Raises:
            ValueError: There is no such classifier, or it lacks weights.
        """
        commit = find_classifier(name)
        revision = commit or "main"
        try:
            config = AutoConfig.from_pretrained(name, revision=revision)
            model, report = AutoModelForImageClassification.from_pretrained(
                name, revision=revision, dtype=dtype, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{FIELD}: {name!r} is no image classifier of transformers ({error}). Name the folder or the Hub id "
                "of one."
            ) from error
        check_complete(FIELD, name, type(model), report["missing_keys"])
        processor = open_processors(name, config, "vision", commit, FIELD)[1]
        return cls(
            model.to(device).eval(),
            Normalize.from_processor(processor, processor_size(processor)),
            commit or digest_folder(name),
        )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.model.config.num_labels or 0  # 0 for a model without labels, which no list of names fits

    def require_classes(self, number: int, name: str):
        """Check the number of classes.

        Args:
            number: Number of class names.
            name: Name of the classifier, for the error message.

        Raises:
            ValueError: The classifier has another number of classes.
        """
        if self.num_classes != number:
            raise ValueError(f"{FIELD}: {name!r} has {self.num_classes} classes, expected {number}.")

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Probabilities of the classes.

        Args:
            images: Images on the device of the classifier, (B, 3, S, S), 0..255.

        Returns:
            (B, C) float32.
        """
        pixels = self.normalize(images).to(self.model.dtype)
        with torch.autocast(pixels.device.type, enabled=False):  # in the precision of its own weights
            return self.model(pixel_values=pixels).logits.float().softmax(-1)


@dataclass(frozen=True, eq=False)
class ClassTargets:
    """A classifier, and the names of its classes for the student.

    Args:
        classifier: The classifier.
        names: Embedding of each name in each language at the start of training, (L, C, D) float32, L2-normalized.
        input_ids: Token ids of each name in each of P prompts, (L, P, C, T) int64, padded on the right.
        attention_mask: 1 for each token and 0 for padding, (L, P, C, T) int64.
    """

    classifier: Classifier
    names: Tensor
    input_ids: Tensor
    attention_mask: Tensor
