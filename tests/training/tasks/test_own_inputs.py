"""Texts and images beyond the data, whose embeddings by the teacher stage 2 keeps."""

import pytest
import torch

from modeling_dcclip import DCCLIPProcessor
from tests.tiny import IMAGE_SIZE, NO_DROPOUT, VIT, make_image_processor, make_model
from tests.training.tasks.hand_made import data_config, random, save_classifier
from training.config import AlignRecipe
from training.data import tokenize
from training.data.images import Normalize
from training.evaluation.sets.class_names import general_pairs
from training.general_images import photo_crops, vary_images
from training.tasks import Models
from training.tasks.own_inputs import ClassifierNames, GeneralPhotos, GeneralTexts
from training.teachers import TOWERS
from training.teachers.targets import LiveTargets, TargetSpec
from training.text.scenes import scenes

CPU = torch.device("cpu")


def make_recipe(**fields):
    defaults = {"output_dir": "", "student": "s", "teacher": "t", "data": data_config()}
    return AlignRecipe(**defaults | fields)


@pytest.fixture
def models(teacher, tokenizer):
    """A student whose image processor normalizes unlike its teacher's."""
    student = make_model(VIT, NO_DROPOUT, seed=3, languages=["zh"])
    processor = make_image_processor()
    processor.image_mean = [0.1, 0.2, 0.3]
    processor.image_std = [0.9, 0.8, 0.7]
    return Models(student, DCCLIPProcessor(processor, tokenizer), teacher)


@pytest.fixture
def targets(teacher):
    return LiveTargets(teacher, TargetSpec(TOWERS))


def test_the_texts_are_sentences_and_names_that_are_not_held_out(
    models, targets, tokenizer, monkeypatch
):
    monkeypatch.setattr(
        "training.tasks.own_inputs.encode_bank",
        lambda teacher, texts: torch.arange(float(len(texts)))[:, None],
    )
    found = GeneralTexts.prepare(make_recipe(general_weight=1.0), models, targets, CPU)
    expected = [*general_pairs(["zh"], held_out=False).texts, *scenes("zh", 1000)]
    assert not set(expected) & set(general_pairs(["zh"], held_out=True).texts)
    assert torch.equal(found.input_ids, tokenize(tokenizer, expected, 32)["input_ids"])
    assert found.targets.flatten().tolist() == list(range(len(expected)))


@pytest.fixture
def few_photos(monkeypatch):
    """Five crops of photographs, encoded two at a time."""
    photos = photo_crops(IMAGE_SIZE, 5)
    monkeypatch.setattr("training.tasks.own_inputs.photo_crops", lambda size: photos)
    monkeypatch.setattr("training.tasks.own_inputs.IMAGES_AT_ONCE", 2)
    return photos


@pytest.mark.parametrize("is_copy", [False, True])
def test_the_images_are_varied_crops_that_the_teacher_sees_as_its_own(
    models, teacher, targets, few_photos, is_copy
):
    recipe = make_recipe(teacher="s" if is_copy else "t", photo_weight=1.0)
    found = GeneralPhotos.prepare(recipe, models, targets, CPU)
    images = vary_images(few_photos)
    assert torch.equal(found.images, images)
    normalized = Normalize.from_processor(teacher.image_processor, IMAGE_SIZE)(images)
    expected = teacher.image_targets(normalized)
    torch.testing.assert_close(found.targets, expected.embedding, rtol=1e-4, atol=1e-5)
    if is_copy:
        maps = expected.required_map.half()
        torch.testing.assert_close(found.maps, maps, rtol=1e-2, atol=1e-3)
    else:
        assert found.maps is None  # the maps of other towers have other channels


def test_a_classifier_is_read_with_its_names(models, teacher, targets, tokenizer, tmp_path):
    names = {"zh": ["狗", "猫", "一只鸟"], "en": ["dog", "a cat", "bird"]}
    path = save_classifier(tmp_path / "c.safetensors", teacher.vision_width, names)
    recipe = make_recipe(classifier=path, class_weight=1.0)
    found = ClassifierNames.prepare(recipe, models, targets, CPU)
    assert torch.equal(found.weight, random(3, teacher.vision_width))
    assert torch.equal(found.bias, random(3))
    tokens = tokenize(tokenizer, [*names["en"], *names["zh"]], 32)
    assert torch.equal(found.input_ids, tokens["input_ids"])


@pytest.mark.parametrize(
    ("excess", "language", "message"),
    [
        (0, "fr", "cannot be read"),
        (1, "zh", "Name the classifier of this image tower"),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused(
    models, teacher, targets, tmp_path, excess, language, message
):
    names = {"en": ["a", "b", "c"], language: ["a", "b", "c"]}
    path = save_classifier(tmp_path / "c.safetensors", teacher.vision_width + excess, names)
    recipe = make_recipe(classifier=path, class_weight=1.0)
    with pytest.raises(ValueError, match=rf"(?s)^classifier: .*{message}"):
        ClassifierNames.prepare(recipe, models, targets, CPU)
