"""What a recipe makes of data and teachers, before the first step."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import CLIPImageProcessor

from modeling_dcclip import DCCLIPProcessor
from tests.tiny import NO_DROPOUT, VIT, make_image_processor, make_model, recipe_fields, student_config
from training.config import AlignRecipe, DataConfig, DistillRecipe, SourceConfig, TeacherConfig
from training.data import PairDataset
from training.engine import inputs
from training.engine.inputs import Models, caption_tokens, open_inputs, open_pairs, open_teachers
from training.engine.stage import _check_batch
from training.teachers import TOWERS
from training.teachers.targets import TargetSpec

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

SPEC = TargetSpec(TOWERS, (4, 4), token_maps=True)


@pytest.fixture
def recipe(corpus, altclip_folder, teacher_folder):
    """Stage 1 of AltCLIP, whose tokens are not the student's, and of a teacher with the student's tokens."""

    def build(**fields: Any) -> DistillRecipe:
        teachers = [TeacherConfig(teacher=str(folder)) for folder in (altclip_folder, teacher_folder)]
        defaults = recipe_fields("runs/x", corpus / "train.parquet", student=student_config(), teachers=teachers)
        return DistillRecipe(**defaults | {"seed": 5} | fields)

    return build


@pytest.fixture
def opened(tokenizer, monkeypatch):
    """Open the inputs of a recipe for a student of an image size; its teachers are asked, and do not run."""

    def run(recipe: DistillRecipe, image_size: int = 32, image_processor: Any = None, asked: list | None = None):
        def note(recipe, models, member, spec, dataset, *others):
            if asked is not None:
                asked.append((member.number, spec))
            return SimpleNamespace(num_views=0)

        monkeypatch.setattr(inputs, "_open_source", note)
        vision = VIT | {"image_size": image_size, "patch_size": image_size // 4}
        student = make_model(vision, NO_DROPOUT, image_size=image_size)
        processor = DCCLIPProcessor(image_processor or make_image_processor(image_size), tokenizer)
        models = Models(student, processor, open_teachers(recipe))
        tokens = caption_tokens(tokenizer, 99, models.teachers)
        return open_inputs(recipe, models, tokens, SPEC, Accelerator())

    return run


def test_each_teacher_gives_what_the_student_can_learn_from_it(recipe, opened):
    asked: list = []
    found = opened(recipe(), asked=asked)
    # maps of images come from the first teacher, states of tokens from the one that has the student's tokens
    assert asked == [(0, TargetSpec(TOWERS, (4, 4), False)), (1, TargetSpec(TOWERS, None, True))]
    tokens = found.dataset.tokens
    assert list(tokens.further) == [0] and tokens.has_token_targets and not tokens.further[0].has_token_targets
    assert (tokens.max_text_length, tokens.further[0].max_text_length) == (32, 38)  # the teachers' own


@pytest.mark.parametrize(("image_size", "expected"), [(32, 64), (96, 96)])
def test_images_are_as_large_as_the_largest_model_needs_them(recipe, opened, image_size, expected):
    found = opened(recipe(), image_size)
    assert found.dataset.image_size == expected and found.normalize.image_size == image_size


def test_views_follow_the_seed_unless_a_cache_shares_them_between_seeds(recipe, opened, tmp_path):
    assert opened(recipe()).augment.seed == 5
    assert opened(recipe(teacher_cache=str(tmp_path))).augment.seed == 0


def test_images_are_squashed_if_the_student_squashes_them(recipe, opened):
    squashing = CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    assert opened(recipe(), image_processor=squashing).dataset.squash and not opened(recipe()).dataset.squash


@pytest.mark.parametrize(("image_size", "expected"), [(32, 64), (96, 96)])
def test_cached_images_are_those_that_one_teacher_would_see_alone(
    recipe, tokenizer, tmp_path, monkeypatch, image_size, expected
):
    """In a run with a teacher of larger images, too."""
    built = []
    monkeypatch.setattr(inputs, "build_target_cache", lambda *arguments, **fields: built.append((arguments, fields)))
    made = recipe(teacher_cache=str(tmp_path), teacher_views=3)
    student = make_model(VIT | {"image_size": image_size, "patch_size": 16}, NO_DROPOUT, image_size=image_size)
    models = Models(student, DCCLIPProcessor(make_image_processor(), tokenizer), open_teachers(made))
    tokens = caption_tokens(tokenizer, 99, models.teachers)
    dataset = open_pairs(made.data, tokens, 128)
    for member in models.teachers.members:
        inputs._open_source(made, models, member, SPEC, dataset, None, tokens, Accelerator())
    for (_, _, pairs, _, _, views), fields in built:
        assert (pairs.image_size, views) == (expected, 3)
        assert fields["tokens"] in (tokens, tokens.further[0])
    assert built[0][1]["tokens"] is tokens.further[0] and built[1][1]["tokens"] is tokens


def test_teachers_are_loaded_in_the_precision_of_the_recipe(recipe):
    for member in open_teachers(recipe(mixed_precision="bf16")).members:
        weights = member.teacher.with_towers(("vision",)).model.parameters()
        assert {parameter.dtype for parameter in weights} == {torch.bfloat16}


def test_each_source_has_its_split_and_subset(tokenizer, train_rows, monkeypatch):
    asked = []
    monkeypatch.setattr(inputs, "load_source", lambda *arguments: asked.append(arguments) or train_rows.select([0]))
    monkeypatch.setattr(inputs, "check_split", lambda *arguments: asked.append(arguments))
    sources = [SourceConfig(train="a", split="dev", subset="s"), SourceConfig(train="b")]
    open_pairs(DataConfig(sources=sources), None, 64)
    assert asked == [("a", "dev"), ("b", "train"), ("a", "dev", "s"), ("b", "train", None)]


@pytest.mark.parametrize("weights", [{}, {"contrastive_weight": 0.0, "text_text_weight": 1.0}])
def test_no_pair_occurs_twice_in_the_batches_of_all_processes(train_rows, weights):
    rows = PairDataset(train_rows.select(range(7)), DataConfig(train="x"), None, 64)
    recipe = AlignRecipe(output_dir="x", data=rows.config, student="s", batch_size=3, **weights)
    _check_batch(recipe, rows, 2)
    with pytest.raises(ValueError, match=r"^batch_size: .* 9, .* 7 rows.* at most 2"):
        _check_batch(recipe, rows, 3)
