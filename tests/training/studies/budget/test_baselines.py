import pytest
import torch
from torch import nn

from training.students import load_size
from training.students.build import student_from_config
from training.studies.budget.baselines import BASELINES, DualEncoder, split

MILLION = 1_000_000


def count(tower: nn.Module) -> int:
    return sum(parameter.numel() for parameter in tower.parameters())


def build_without_memory(name: str) -> DualEncoder:
    with torch.device("meta"):
        if name in BASELINES:
            return BASELINES[name]()
        model = student_from_config(load_size(name, vision_init="random", text_init="random"))
        return split(model, model.config.image_size)


@pytest.mark.parametrize(("name", "limit"), [("tiny", 16), ("small", 40), ("base", 60)])
def test_each_size_is_below_its_limit(name, limit):
    encoder = build_without_memory(name)
    parameters = count(encoder.image_tower) + count(encoder.text_tower)
    assert 0.5 * limit * MILLION < parameters <= limit * MILLION
    text = load_size(name).text_config
    assert encoder.embedding_table.weight.numel() == text["vocab_size"] * text["hidden_size"]


@pytest.mark.parametrize(
    ("name", "image", "text"),
    [
        # published numbers in millions; one number for both towers of AltCLIP, CLIP and Chinese-CLIP ViT
        ("altclip", None, 864),
        ("clip-vit-b-32", None, 151),
        ("chinese-clip-vit-b-16", None, 188),
        ("chinese-clip-rn50", 38, 39),
        ("mobileclip-s0", 11.4, 42.4),
        # 63.4 by open_clip's config; the README of apple/ml-mobileclip lists 42.4 for the text tower
        ("mobileclip2-s0", 11.4, 63.4),
    ],
)
def test_baselines_are_as_large_as_published(name, image, text):
    encoder = build_without_memory(name)
    if image is None:
        assert count(encoder.image_tower) + count(encoder.text_tower) == pytest.approx(text * MILLION, rel=0.005)
    else:
        assert count(encoder.image_tower) == pytest.approx(image * MILLION, rel=0.01)
        assert count(encoder.text_tower) == pytest.approx(text * MILLION, rel=0.01)


def test_parameters_are_counted_without_memory():
    encoder = build_without_memory("clip-vit-b-32")
    assert all(parameter.is_meta for parameter in encoder.image_tower.parameters())
    assert encoder.embedding_table.weight.shape == (49408, 512)


def test_size_without_projection_dim_needs_a_teacher():
    with pytest.raises(ValueError, match=r"student.projection_dim is None: without a teacher both must be given"):
        student_from_config(load_size("tiny", projection_dim=None))
