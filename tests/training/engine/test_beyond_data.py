"""Texts and images beyond the data, whose embeddings by the teacher stage 2 keeps."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from modeling_dcclip import DCCLIPProcessor
from tests.tiny import IMAGE_SIZE, NO_DROPOUT, VIT, make_image_processor, make_model
from tests.training.tasks.hand_made import data_config
from training.config import AlignRecipe
from training.corpus import free_photos as crops
from training.data.image_bank import load_images, vary_images
from training.data.images import Normalize
from training.engine.inputs import Models, open_classifier, open_rehearsal
from training.evaluation.sets.class_names import general_pairs
from training.teachers import TOWERS, DualEncoder
from training.teachers.targets import LiveTargets, TargetSpec
from training.text import scenes as module
from training.text.scenes import scenes

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def make_recipe(**fields) -> AlignRecipe:
    return AlignRecipe(output_dir="", data=data_config(), **fields)


@pytest.fixture
def models(teacher, tokenizer) -> Models:
    """A student whose image processor normalizes unlike its teacher's."""
    student = make_model(VIT, NO_DROPOUT, seed=3, languages=["zh", "en"])
    processor = make_image_processor()
    processor.image_mean, processor.image_std = [0.1, 0.2, 0.3], [0.9, 0.8, 0.7]
    return Models(student, DCCLIPProcessor(processor, tokenizer), teacher)


@pytest.mark.parametrize("languages", [["en", "zh"], ["zh"]])
def test_the_texts_are_sentences_and_names_that_are_not_held_out(
    models, teacher, tokenizer, languages, monkeypatch
):
    asked: list[tuple] = []

    def encode_bank(teacher, texts):
        asked.append((teacher.towers, list(texts)))
        return torch.arange(float(len(texts)))[:, None]

    monkeypatch.setattr("training.engine.inputs.encode_bank", encode_bank)
    models.student.config.languages = languages
    recipe = make_recipe(general_weight=1.0, teacher_cache="cache", teacher="t")
    found = open_rehearsal(recipe, models, None, Accelerator())
    texts = found["general"].inputs
    expected = general_pairs(languages, held_out=False).texts
    expected += [text for each in languages for text in scenes(each, 1000)]
    assert asked == [(("text",), expected)]
    assert not set(expected) & set(general_pairs(languages, held_out=True).texts)
    for row in (0, 7, len(expected) - 1):
        ids = texts["input_ids"][row][texts["attention_mask"][row].bool()].tolist()
        assert ids == tokenizer(expected[row], truncation=True, max_length=32).input_ids
    assert found["general"].targets.flatten().tolist() == list(range(len(expected)))


def test_scenes_are_varied_sentences_that_mean_the_same_in_both_languages():
    english, chinese = scenes("en", 1000), scenes("zh", 1000)
    assert len(set(english)) > 970 < len(set(chinese)) and english[:9] == scenes("en", 9)
    assert all(text.isascii() for text in english) and not re.search("[A-Za-z{}]", "".join(chinese))
    parts = json.loads(Path(module.__file__).with_name("scenes.json").read_text(encoding="utf-8"))
    for entry in (entry for listed in parts.values() for entry in listed):
        found = [pair for pair in zip(english, chinese, strict=True) if entry["zh"] in pair[1]]
        assert found and all(entry["en"] in text for text, _ in found), entry


@pytest.mark.parametrize("starts_from_teacher", [False, True])
def test_the_images_are_varied_crops_that_the_teacher_sees_as_its_own(
    models, teacher, starts_from_teacher, monkeypatch
):
    cut = crops.photo_crops
    monkeypatch.setattr(crops, "photo_crops", lambda size: cut(size, 5))
    monkeypatch.setattr("training.engine.inputs.IMAGES_AT_ONCE", 2)
    fields = {"student": "m" if starts_from_teacher else "s", "teacher": "m", "photo_weight": 1.0}
    targets = LiveTargets(teacher, TargetSpec(TOWERS))
    found = open_rehearsal(make_recipe(**fields), models, targets, Accelerator())["photo"]
    images = vary_images(cut(IMAGE_SIZE, 5))
    assert torch.equal(found.inputs["images"], images) and not torch.equal(
        images, cut(IMAGE_SIZE, 5)
    )
    normalized = Normalize.from_processor(teacher.image_processor, IMAGE_SIZE)(images)
    expected = teacher.image_targets(normalized)
    torch.testing.assert_close(found.targets, expected.embedding, rtol=1e-4, atol=1e-5)
    if starts_from_teacher:
        torch.testing.assert_close(
            found.inputs["maps"], expected.required_map.half(), rtol=1e-2, atol=1e-3
        )
    else:
        assert "maps" not in found.inputs  # the maps of other towers have other channels


def test_images_of_the_user_are_taken_as_they_are(
    models, teacher: DualEncoder, train_rows, tmp_path
):
    train_rows.select(range(4)).to_parquet(tmp_path / "own.parquet")
    recipe = make_recipe(
        student="s", teacher="m", photo_weight=1.0, photos=str(tmp_path / "own.parquet")
    )
    found = open_rehearsal(recipe, models, LiveTargets(teacher, TargetSpec(TOWERS)), Accelerator())[
        "photo"
    ]
    assert torch.equal(
        found.inputs["images"], load_images(str(recipe.photos), recipe.data, IMAGE_SIZE)
    )
    normalized = Normalize.from_processor(teacher.image_processor, IMAGE_SIZE)(
        found.inputs["images"]
    )
    torch.testing.assert_close(
        found.targets, teacher.image_targets(normalized).embedding, rtol=1e-4, atol=1e-5
    )


def test_nothing_is_kept_at_weight_0_or_without_a_teacher(models, teacher):
    targets, accelerator = LiveTargets(teacher, TargetSpec(TOWERS)), Accelerator()
    assert open_rehearsal(make_recipe(teacher="t"), models, targets, accelerator) == {}
    without = replace(models, teacher=None)
    assert (
        open_rehearsal(
            make_recipe(photo_weight=1.0, general_weight=1.0), without, None, accelerator
        )
        == {}
    )


def save_classifier(path, width: int, names: object, classes: int = 3) -> str:
    tensors = {
        "weight": torch.arange(3.0 * width).view(3, width),
        "bias": torch.arange(float(classes)),
    }
    save_file(tensors, path, metadata={"names": json.dumps(names)})
    return str(path)


def test_a_classifier_is_read_with_its_names(models, teacher, tokenizer, tmp_path):
    names = {"zh": ["狗", "猫", "一只鸟"], "en": ["dog", "a cat", "bird"]}
    path = save_classifier(tmp_path / "c.safetensors", teacher.vision_width, names)
    found = open_classifier(make_recipe(teacher="t", classifier=path, class_weight=1.0), models)
    assert torch.equal(found.weight, torch.arange(3.0 * teacher.vision_width).view(3, -1))
    assert found.bias.tolist() == [0, 1, 2]
    rows = zip(found.names["input_ids"], found.names["attention_mask"], strict=True)
    assert [ids[mask.bool()].tolist() for ids, mask in rows] == [
        tokenizer(text).input_ids for text in [*names["en"], *names["zh"]]
    ]
    assert open_classifier(make_recipe(teacher="t"), models) is None


@pytest.mark.parametrize("fault", ["unnamed", "missing", "damaged", "language", "width", "count"])
def test_a_classifier_that_does_not_fit_is_refused(models, teacher, tmp_path, fault):
    names = {"en": ["a", "b", "c"], "zh": ["一", "二", "三"]}
    if fault == "language":
        names["fr"] = names.pop("zh")
    width, classes = teacher.vision_width + (fault == "width"), 2 if fault == "count" else 3
    path = save_classifier(tmp_path / "c.safetensors", width, names, classes)
    if fault == "missing":
        path = str(tmp_path / "no.safetensors")
    if fault == "damaged":
        Path(path).write_bytes(b"damaged")
    if fault == "unnamed":
        path = None
    with pytest.raises(ValueError, match=r"^classifier: "):
        open_classifier(make_recipe(teacher="t", classifier=path, class_weight=1.0), models)
