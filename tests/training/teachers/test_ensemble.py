"""Several teachers against plain arithmetic, with small stand-ins for the teachers, and the cache of real ones."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.tiny_teachers import save_teacher
from training.config import AugmentConfig, DataConfig, TeacherConfig
from training.data import CaptionTokenizer, PairDataset
from training.data.images import Augment
from training.teachers import TOWERS, Targets, Teacher
from training.teachers.cache import build_target_cache
from training.teachers.ensemble import Ensemble, JointTargets, joint_bank
from training.teachers.targets import LiveTargets, TargetSpec, encode_bank

AUGMENT = Augment(AugmentConfig(zoom=0.3, rotate=10), seed=0)
LANGUAGES = ["en", "zh"]
GENERATOR = torch.Generator().manual_seed(0)


def stand_in(width: int, scale: float | None, towers: tuple[str, ...] = TOWERS, license: str | None = None) -> Any:
    """What an ensemble needs of a teacher; `scale` is its factor on cosines."""
    fields = {"has_logit_scale": scale is not None, "logit_scale": math.log(scale or 1), "license": license}
    family = SimpleNamespace(towers=towers)
    return SimpleNamespace(name=f"of {width}", projection_dim=width, vision_width=8, family=family, **fields)


def make_ensemble(teachers: list[Any], **fields: tuple) -> Ensemble:
    """Ensemble of teachers; each field has one value for each of them."""
    entries = [{name: values[number] for name, values in fields.items()} for number in range(len(teachers))]
    return Ensemble(teachers, [TeacherConfig(teacher="x", **entry) for entry in entries])


class Stored:
    """Random targets of two images and four captions."""

    num_views = 0

    def __init__(self, width: int):
        self.of_images, self.of_texts = (torch.randn(number, width, generator=GENERATOR) for number in (2, 4))

    def images(self, images, batch) -> Targets:
        return Targets(None, self.of_images)

    def texts(self, batch) -> Targets:
        return Targets(None, self.of_texts[batch["caption_ids"]])


def join(ensemble: Ensemble) -> tuple[JointTargets, list[Stored]]:
    sources = [Stored(member.teacher.projection_dim) for member in ensemble.members]
    return JointTargets(list(zip(ensemble.members, sources, strict=True)), ensemble.projection_dim, LANGUAGES), sources


def make_batch(owner: list[int], language: list[int]) -> dict[str, torch.Tensor]:
    tokens = torch.ones(len(owner), 3, dtype=torch.long)
    fields = {"owner": torch.tensor(owner), "language": torch.tensor(language), "input_ids": tokens}
    return fields | {"attention_mask": tokens, "caption_ids": torch.arange(len(owner))}


def test_joint_logits_are_the_weighted_mean_of_the_logits():
    scales, weights, widths = (10.0, 40.0, 25.0), (1.0, 3.0, 0.5), (3, 5, 2)
    ensemble = make_ensemble([stand_in(*pair) for pair in zip(widths, scales, strict=True)], weight=weights)
    targets, sources = join(ensemble)
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


def test_each_language_is_encoded_by_its_teacher_and_translated_for_the_others():
    targets, sources = join(make_ensemble([stand_in(3, 10.0), stand_in(2, 10.0)], languages=(["zh"], ["en"])))
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


def test_a_teacher_of_images_alone_has_no_part_in_captions():
    targets, _ = join(make_ensemble([stand_in(3, 10.0), stand_in(2, 10.0)], tower=("both", "vision")))
    images = targets.images(torch.zeros(2), {}).embedding
    texts = targets.texts(make_batch([0, 1], [0, 0])).embedding
    assert images.all() and texts[:, :3].all() and not texts[:, 3:].any()


def test_targets_that_no_teacher_gives_are_refused():
    teachers = [stand_in(3, 10.0), stand_in(2, None, ("vision",))]
    ensemble = make_ensemble(teachers, tower=("vision", "vision"))
    ensemble.check(("vision",), LANGUAGES)
    with pytest.raises(ValueError, match=r"^teachers: .* text tower"):
        ensemble.check(TOWERS, LANGUAGES)
    with pytest.raises(ValueError, match=r"^teachers\.tower: .*'of 2'"):
        make_ensemble(teachers).check(TOWERS, LANGUAGES)
    with pytest.raises(ValueError, match=r"^teachers\.languages: .*\['fr'\]"):
        make_ensemble(teachers[:1], languages=(["en", "fr"],)).check(TOWERS, LANGUAGES)


def test_name_and_license_cover_all_teachers():
    teachers = [stand_in(3, 1.0, license="mit"), stand_in(4, 1.0, license="cc-by-nc-4.0")]
    assert make_ensemble(teachers).name == "of 3 + of 4"
    assert make_ensemble(teachers).license == "mit and cc-by-nc-4.0"
    teachers[0].license = None
    assert make_ensemble(teachers).license == "unknown and cc-by-nc-4.0"
    assert make_ensemble(teachers[:1]).license is None


# real teachers


@pytest.fixture(scope="module")
def teachers(tmp_path_factory, tokenizer, other_tokenizer) -> list[Teacher]:
    """AltCLIP and SigLIP: their tokens, widths and logit scales differ."""
    kinds = {"altclip": tokenizer, "siglip": other_tokenizer}
    folder = tmp_path_factory.mktemp("teachers")
    return [Teacher.from_pretrained(str(save_teacher(kind, folder / kind, own))) for kind, own in kinds.items()]


@pytest.fixture(scope="module")
def dataset(train_rows, tokenizer, teachers) -> PairDataset:
    """Captions of the first teacher's tokens, which are the student's, and of the second one's."""
    tokens = CaptionTokenizer(tokenizer, 32, further={1: CaptionTokenizer(tokenizer, 32, teachers[1].tokenizer)})
    return PairDataset(train_rows.select(range(24)), DataConfig(train="tiny"), tokens, 64)


def test_a_bank_has_joint_embeddings(teachers, texts, tmp_path):
    ensemble = make_ensemble(teachers, weight=(1.0, 3.0))
    bank = joint_bank(ensemble, texts, torch.device("cpu"), "logits")
    expected = [member.factor * F.normalize(encode_bank(member.teacher, texts), dim=-1) for member in ensemble.members]
    torch.testing.assert_close(bank, torch.cat(expected, 1))
    ensemble = make_ensemble(teachers, languages=(["en"], None))
    with pytest.raises(ValueError, match=r"^teachers\.languages: .* general_weight"):
        joint_bank(ensemble, texts, torch.device("cpu"), "general_weight")


def test_cached_joint_targets_equal_live_ones(teachers, dataset, tmp_path):
    ensemble = make_ensemble(teachers, languages=(None, ["zh"]))
    batch = dataset.collate([(row, row % 2, row % 2, dataset[row]) for row in (3, 20, 12, 7)])
    views, spec = AUGMENT(batch["images"], batch["rows"], batch["view_ids"]), TargetSpec(TOWERS)
    cached, live = [], []
    for member in ensemble.members:
        tokens = dataset.tokens.further.get(member.number)
        cached.append((member, build_target_cache(tmp_path, member.teacher, dataset, AUGMENT, spec, 2, tokens=tokens)))
        live.append((member, LiveTargets(member.teacher, spec)))
    found, expected = (JointTargets(sources, ensemble.projection_dim, LANGUAGES) for sources in (cached, live))
    assert (found.num_views, expected.num_views) == (2, 0)
    for targets in ("images", "texts"):
        arguments = (views, batch) if targets == "images" else (batch,)
        pair = [getattr(each, targets)(*arguments).embedding for each in (found, expected)]
        torch.testing.assert_close(*pair, rtol=4e-3, atol=4e-3)
