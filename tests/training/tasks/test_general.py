"""The loss that keeps what the student knows beyond the captions of its data."""

import copy

import pytest
import torch

from tests.tiny import IMAGE_SIZE, PROJECTION_DIM, VIT, XLM_ROBERTA, make_model
from training.config import AlignRecipe, AugmentConfig, DataConfig
from training.corpus.photo_crops import photo_crops
from training.data import CaptionTokenizer, PairDataset, tokenize
from training.data.transforms import Augment, Normalize
from training.engine.rotation import rotate
from training.evaluation.sets.general import general_pairs
from training.tasks import AlignTask
from training.tasks.align import GeneralImages, GeneralTexts
from training.teachers import TOWERS, Teacher
from training.teachers.targets import LiveTargets, TargetSpec, encode_bank

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(train_rows, tokenizer) -> PairDataset:
    config = DataConfig(train="", in_memory=True)
    return PairDataset(train_rows.select(range(6)), config, CaptionTokenizer(tokenizer, 32), IMAGE_SIZE)


@pytest.fixture(scope="module")
def batch(dataset):
    batch = dataset.collate([(row, 0, 0, dataset[row]) for row in range(6)])
    batch.pop("skipped")
    return batch


def make_task(
    dataset, teacher: Teacher, student, weight: float, photo_weight: float = 1.0, with_maps: bool = False
) -> AlignTask:
    texts = general_pairs(["en", "zh"], held_out=False).texts
    tokens = tokenize(teacher.tokenizer, texts, 32)
    general = GeneralTexts(tokens["input_ids"], tokens["attention_mask"], encode_bank(teacher, texts))
    normalize = Normalize.from_processor(teacher.image_processor, IMAGE_SIZE)
    recipe = AlignRecipe(output_dir="", data=dataset.config, general_weight=weight, photo_weight=photo_weight)
    targets = LiveTargets(teacher, TargetSpec(TOWERS))
    augment = Augment(AugmentConfig(), 0)
    crops = photo_crops(IMAGE_SIZE, 48)
    encoded = teacher.encode_images(normalize(crops))
    photos = GeneralImages(crops, encoded.embedding, encoded.required_map.half() if with_maps else None)
    more = {"general": general, "photos": photos}
    return AlignTask(student, augment, normalize, targets, recipe, dataset.languages, **more).eval()


def test_a_student_that_equals_its_teacher_has_no_loss(dataset, batch, teacher):
    losses = make_task(dataset, teacher, teacher.model, 1.0)(batch)
    assert losses["general"].abs() < 1e-5 and losses["photos_embedding"].abs() < 1e-5


@pytest.mark.parametrize("is_rotated_too", [False, True])
def test_a_rotated_copy_of_its_teacher_has_no_loss(dataset, batch, teacher, is_rotated_too):
    student = copy.deepcopy(teacher.model)
    rotate(student, torch.linalg.qr(torch.randn(PROJECTION_DIM, PROJECTION_DIM, dtype=torch.float64))[0])
    targets = Teacher(student, teacher.tokenizer, teacher.image_processor, "rotated") if is_rotated_too else teacher
    task = make_task(dataset, targets, student, 1.0)
    task.teacher_rotation = student.config.rotation if is_rotated_too else None
    losses = task(batch)
    assert max(losses[name].abs() for name in ("general", "photos_embedding", "anchor_image", "anchor_text")) < 1e-5


def test_the_loss_is_weighted_and_trains_the_text_tower(dataset, batch, teacher):
    task = make_task(dataset, teacher, make_model(VIT, XLM_ROBERTA, seed=3), 0.5)
    losses = task(batch)
    contrastive = (losses["contrastive_en"] + losses["contrastive_zh"]) / 2
    torch.testing.assert_close(losses["loss"], contrastive + 0.5 * losses["general"] + losses["photos_embedding"])
    losses["general"].backward()
    assert task.student.text_projection.weight.grad.abs().sum() > 0
    assert task.student.visual_projection.weight.grad is None


def test_the_loss_on_photographs_trains_the_image_tower(dataset, batch, teacher):
    task = make_task(dataset, teacher, make_model(VIT, XLM_ROBERTA, seed=3), 0.0, 0.5)
    losses = task(batch)
    contrastive = (losses["contrastive_en"] + losses["contrastive_zh"]) / 2
    torch.testing.assert_close(losses["loss"], contrastive + 0.5 * losses["photos_embedding"])
    losses["photos_embedding"].backward()
    assert task.student.visual_projection.weight.grad.abs().sum() > 0
    assert task.student.text_projection.weight.grad is None


def test_feature_maps_of_photographs_train_the_image_tower_alone(dataset, batch, teacher):
    unchanged = make_task(dataset, teacher, teacher.model, 0.0, with_maps=True)(batch)
    assert unchanged["photos_map"] < 1e-5
    student = copy.deepcopy(teacher.model)
    with torch.no_grad():
        for parameter in student.vision_model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    losses = make_task(dataset, teacher, student, 0.0, 0.5, with_maps=True)(batch)
    contrastive = (losses["contrastive_en"] + losses["contrastive_zh"]) / 2
    photos = losses["photos_embedding"] + losses["photos_map"]
    torch.testing.assert_close(losses["loss"], contrastive + 0.5 * photos)
    losses["photos_map"].backward()
    assert all(parameter.grad is None for parameter in student.visual_projection.parameters())
    assert any(parameter.grad is not None for parameter in student.vision_model.parameters())


@pytest.mark.parametrize("name", ["general", "photos_embedding"])
def test_each_batch_draws_other_texts_and_images_by_its_number(dataset, batch, teacher, name):
    task = make_task(dataset, teacher, make_model(VIT, XLM_ROBERTA, seed=3), 1.0)
    values = []
    for number in (0, 1, 0):
        task.before_batch(number)
        values.append(task(batch)[name])
    assert values[0] == values[2] != values[1]
