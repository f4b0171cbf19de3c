"""What a recipe makes of data and teacher, before the first step."""

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import CLIPImageProcessor

from modeling_dcclip import DCCLIPProcessor
from tests.tiny import (
    NO_DROPOUT,
    VIT,
    make_image_processor,
    make_model,
    recipe_fields,
    student_config,
)
from tests.tiny_teachers import save_teacher
from training.config import DataConfig, DistillRecipe, SourceConfig
from training.engine import inputs
from training.engine.inputs import caption_tokens, open_inputs, open_pairs, open_teacher
from training.tasks import Models
from training.teachers import TOWERS, DualEncoder
from training.teachers.targets import TargetSpec

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

SPEC = TargetSpec(TOWERS, (4, 4), token_maps=True)


@pytest.fixture
def recipe(corpus, altclip_folder):
    """Stage 1 of AltCLIP, whose tokens are not the student's."""

    def build(**fields: Any) -> DistillRecipe:
        teacher = {"student": student_config(), "teacher": str(altclip_folder), "seed": 5}
        return DistillRecipe(**recipe_fields("runs/x", corpus / "train.parquet") | teacher | fields)

    return build


@pytest.fixture
def opened(tokenizer, monkeypatch):
    """Open the inputs of a recipe for a student of an image size; a cache is only noted."""

    def run(recipe: DistillRecipe, image_size: int = 32, image_processor: Any = None):
        vision = VIT | {"image_size": image_size, "patch_size": 16}
        student = make_model(vision, NO_DROPOUT, image_size=image_size)
        processor = DCCLIPProcessor(image_processor or make_image_processor(image_size), tokenizer)
        models = Models(student, processor, open_teacher(recipe))
        tokens = caption_tokens(tokenizer, 99, models.teacher)
        return open_inputs(recipe, models, tokens, SPEC, Accelerator())

    monkeypatch.setattr(inputs, "build_target_cache", lambda *arguments, **fields: arguments)
    return run


def test_a_teacher_runs_with_its_own_tokens_or_the_students(recipe, opened, teacher_folder):
    found = opened(recipe())
    assert (found.targets.spec, found.targets.teacher.towers) == (SPEC, TOWERS)
    assert found.augment.seed == 5  # views follow the seed
    tokens, same = found.dataset.tokens, opened(recipe(teacher=str(teacher_folder))).dataset.tokens
    assert (tokens.max_text_length, same.max_text_length) == (38, 32)  # the teachers' own
    assert same.has_token_targets and not tokens.has_token_targets


def test_a_teacher_whose_texts_lack_their_end_token_is_refused(tokenizer, tmp_path):
    teacher = DualEncoder.from_pretrained(str(save_teacher("clip", tmp_path, tokenizer)), towers=())
    with pytest.raises(ValueError, match=r"^teacher: .* was trained on texts that end with token "):
        caption_tokens(tokenizer, 99, teacher)


@pytest.mark.parametrize(("image_size", "expected"), [(32, 64), (96, 96)])
def test_images_are_as_large_as_student_and_teacher_need_them(
    recipe, opened, image_size, expected, tmp_path
):
    found = opened(recipe(teacher_cache=str(tmp_path), teacher_views=3), image_size)
    assert found.dataset.image_size == expected and found.normalize.image_size == image_size
    _, _, pairs, augment, spec, num_views = found.targets
    assert (pairs, spec, num_views) == (found.dataset, SPEC, 3)
    assert augment.seed == 0  # seeds share a cache


def test_images_are_squashed_if_the_student_squashes_them(recipe, opened):
    squashing = CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    found = [opened(recipe(), image_processor=each).dataset.squash for each in (squashing, None)]
    assert found == [True, False]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), (None, torch.float32)])
def test_a_teacher_is_loaded_in_the_precision_of_the_recipe(recipe, precision, dtype):
    teacher = open_teacher(recipe(mixed_precision=precision)).with_towers(("vision",))
    assert {parameter.dtype for parameter in teacher.model.parameters()} == {dtype}


def test_each_source_has_its_split_subset_and_image_column(train_rows, monkeypatch):
    opened = []

    def load(*arguments, subset, image_column):
        opened.append((*arguments, subset, image_column))
        return train_rows.select([0])

    monkeypatch.setattr(inputs, "load_source", load)
    first = SourceConfig(train="a", split="dev", subset="s", image_column="jpg")
    open_pairs(DataConfig(sources=[first, SourceConfig(train="b")]), None, None)
    assert opened == [("a", "dev", "s", "jpg"), ("b", "train", None, "image")]
