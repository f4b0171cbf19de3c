from pathlib import Path

import pytest

from tests.tiny import MOBILENET, VIT, make_model
from training.finetuning.finetune_options import FinetuneOptions
from training.finetuning.plan import early_layers, make_recipe
from training.finetuning.splits import Prepared


def recipe_for(num_images, num_processes=1, **fields):
    prepared = Prepared(Path("data"), ["zh"], num_images, 10, False, "", [])
    options = FinetuneOptions(model="start", data="", output_dir="mine", **fields)
    return make_recipe(options, prepared, make_model(VIT), num_processes)


@pytest.mark.parametrize(
    ("num_images", "batch_size", "epochs"),
    [(12, 4, 73), (100, 16, 25), (1000, 64, 8), (50_000, 64, 1)],
)
def test_steps_are_sensible_for_any_number_of_images(num_images, batch_size, epochs):
    recipe = recipe_for(num_images)
    assert recipe.batch_size == batch_size
    assert round(recipe.max_steps * batch_size / num_images) == pytest.approx(epochs, abs=1)


def test_processes_share_the_images_of_one():
    one = recipe_for(1000)
    three = recipe_for(1000, num_processes=3)
    assert three.batch_size == 22
    images = three.max_steps * three.batch_size * 3
    assert images == pytest.approx(one.max_steps * one.batch_size, rel=0.02)


@pytest.mark.parametrize(
    ("weights", "teacher"),
    [
        ({}, "start"),
        ({"anchor_weight": 0.0}, "start"),
        ({"anchor_weight": 0.0, "general_weight": 0.0, "photo_weight": 0.0}, None),
    ],
)
def test_the_starting_model_is_the_teacher_of_an_anchored_run(weights, teacher):
    assert recipe_for(100, **weights).teacher == teacher


def test_a_batch_that_is_larger_than_the_data_is_refused():
    message = r"batch_size: is 16 in each of 4 processes, but there are only 40 .* at most 10"
    with pytest.raises(ValueError, match=message):
        recipe_for(40, num_processes=4, batch_size=16)


def test_the_default_batch_fits_a_few_images_on_many_processes():
    assert recipe_for(12, num_processes=8).batch_size == 1


@pytest.mark.parametrize("vision", [MOBILENET, VIT])
def test_the_first_parts_of_any_image_tower_are_frozen(vision):
    model = make_model(vision)
    prefixes = early_layers(model)
    names = [f"vision_model.{name}" for name, _ in model.vision_model.named_parameters()]
    frozen = [name for name in names if name.startswith(tuple(prefixes))]
    assert frozen == names[: len(frozen)]
    assert 0 < len(frozen) < len(names)
    for prefix in prefixes:
        assert any(name.startswith(prefix) for name in names)
