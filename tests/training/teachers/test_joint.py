"""Several teachers against plain arithmetic, with small stand-ins for the teachers."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.tiny import make_image_processor
from tests.tiny_teachers import make_teacher_model
from training.config import TeacherConfig
from training.teachers import Targets, Teacher
from training.teachers.ensemble import Ensemble, JointTargets

LANGUAGES = ["en", "zh"]
GENERATOR = torch.Generator().manual_seed(0)


def stand_in(width: int, scale: float | None, towers: tuple[str, ...] = ("vision", "text")) -> Any:
    """What an ensemble needs of a teacher; `scale` is its factor on cosines."""
    family = SimpleNamespace(towers=towers)
    fields = {"has_logit_scale": scale is not None, "logit_scale": math.log(scale or 1), "family": family}
    return SimpleNamespace(name=f"of {width}", projection_dim=width, vision_width=8, **fields)


def make_ensemble(teachers: list[Any], **fields: tuple) -> Ensemble:
    entries = [{name: values[number] for name, values in fields.items()} for number in range(len(teachers))]
    return Ensemble(teachers, [TeacherConfig(teacher="x", **entry) for entry in entries])


class Stored:
    """Targets that are given."""

    num_views = 0

    def __init__(self, images: torch.Tensor, texts: torch.Tensor):
        self.of_images, self.of_texts = images, texts

    def images(self, images, batch) -> Targets:
        return Targets(None, self.of_images)

    def texts(self, batch) -> Targets:
        return Targets(None, self.of_texts[batch["caption_ids"]])


def stored(width: int, num_images: int = 2, num_texts: int = 4) -> Stored:
    return Stored(*(torch.randn(n, width, generator=GENERATOR) for n in (num_images, num_texts)))


def make_batch(owner: list[int], language: list[int]) -> dict[str, torch.Tensor]:
    tokens = torch.ones(len(owner), 3, dtype=torch.long)
    fields = {"owner": torch.tensor(owner), "language": torch.tensor(language), "input_ids": tokens}
    return fields | {"attention_mask": tokens, "caption_ids": torch.arange(len(owner))}


def test_joint_logits_are_the_weighted_mean_of_the_logits():
    scales, weights, widths = (10.0, 40.0, 25.0), (1.0, 3.0, 0.5), (3, 5, 2)
    teachers = [stand_in(width, scale) for width, scale in zip(widths, scales, strict=True)]
    ensemble = make_ensemble(teachers, weight=weights)
    sources = [stored(width) for width in widths]
    targets = JointTargets(list(zip(ensemble.members, sources, strict=True)), ensemble.projection_dim, LANGUAGES)
    images = targets.images(torch.zeros(2), {}).embedding
    texts = targets.texts(make_batch([0, 0, 1, 1], [0, 1, 0, 1])).embedding
    expected = torch.zeros(2, 4)
    for source, weight, scale in zip(sources, weights, scales, strict=True):
        cosines = F.normalize(source.of_images, dim=1) @ F.normalize(source.of_texts, dim=1).T
        expected += weight / sum(weights) * scale * cosines
    torch.testing.assert_close(math.exp(ensemble.logit_scale) * images @ texts.T, expected)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(2))


def test_a_teacher_of_one_tower_takes_the_weighted_mean_scale_of_the_others():
    teachers = [stand_in(3, 10.0), stand_in(3, 40.0), stand_in(4, None, ("vision",))]
    ensemble = make_ensemble(teachers, weight=(1.0, 3.0, 2.0), tower=("both", "both", "vision"))
    mean = (10 * 1 + 40 * 3) / 4
    assert math.exp(ensemble.logit_scale) == pytest.approx((10 * 1 + 40 * 3 + mean * 2) / 6)
    squares = [member.factor**2 for member in ensemble.members]
    assert squares == pytest.approx([weight / (130 + 2 * mean) for weight in (10, 120, 2 * mean)])
    assert make_ensemble([stand_in(4, None)]).logit_scale == pytest.approx(math.log(1 / 0.07))
    assert make_ensemble([stand_in(4, 31.0)]).logit_scale == math.log(31.0)


def test_each_language_is_encoded_by_its_teacher_and_translated_for_the_others():
    ensemble = make_ensemble([stand_in(3, 10.0), stand_in(2, 10.0)], languages=(["zh"], ["en"]))
    sources = [stored(3), stored(2)]
    targets = JointTargets(list(zip(ensemble.members, sources, strict=True)), 5, LANGUAGES)
    # image 0 has captions in both languages, image 1 a Chinese one, image 2 an English one
    found = targets.texts(make_batch([0, 0, 1, 2], [0, 1, 1, 0])).embedding
    chinese, english = (F.normalize(source.of_texts, dim=1) * 0.5**0.5 for source in sources)
    expected = torch.zeros(4, 5)
    for row, (zh, en) in enumerate([(1, 0), (1, 0), (2, None), (None, 3)]):
        if zh is not None:
            expected[row, :3] = chinese[zh]
        if en is not None:
            expected[row, 3:] = english[en]
    torch.testing.assert_close(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_a_model_that_attends_padding_gets_its_own(kind, tokenizer):
    teacher = Teacher(make_teacher_model(kind, len(tokenizer)), tokenizer, make_image_processor(), kind)
    texts = ["red apple", "a green frog on a red apple"]
    tokens = teacher.tokenize(texts)
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    limit = teacher.max_text_length
    full = torch.full((2, limit), tokenizer.pad_token_id)
    for row, length in enumerate(mask.sum(1).tolist()):
        full[row, :length] = ids[row, :length]
    expected = teacher.model.get_text_features(input_ids=full).pooler_output
    found = teacher.encode_texts(ids.masked_fill(mask == 0, 7), mask).embedding  # a student's padding
    assert torch.equal(found, expected)
