"""Options, recipes and plan of the demo."""

from dataclasses import fields

import pytest

from tests.tiny import ROOT
from training.config import CONFIGS, AlignRecipe, DistillRecipe, parse_recipe
from training.demo.options import DemoOptions, Plan, estimate_minutes, load_recipes, next_commands, without_teacher
from training.edge.export import ExportOptions
from training.evaluation.options import EvalOptions


def test_data_and_augmentation_are_the_same_in_all_recipes():
    distill_recipe, align_recipe = load_recipes(DemoOptions())
    teacher_recipe = parse_recipe(AlignRecipe, ["--config", str(CONFIGS / "demo_teacher.yaml")])
    assert align_recipe.augment == distill_recipe.augment == teacher_recipe.augment
    assert align_recipe.data == distill_recipe.data == teacher_recipe.data


def test_recipes_of_a_single_file_equal_those_of_the_demo():
    recipe = parse_recipe(DistillRecipe, ["--config", str(CONFIGS / "demo_distill.yaml")])
    assert recipe == load_recipes(DemoOptions())[0]


def test_full_recipes_train_longer():
    short, full = load_recipes(DemoOptions()), load_recipes(DemoOptions(full=True))
    assert all(longer.max_steps > recipe.max_steps for longer, recipe in zip(full, short, strict=True))
    assert full[0].student == short[0].student


def test_another_teacher_keeps_the_tokenizer_and_starts_from_random_weights():
    default, _ = load_recipes(DemoOptions())
    distill_recipe, align_recipe = load_recipes(DemoOptions(teacher="some/teacher"))
    assert (distill_recipe.teacher, align_recipe.teacher) == ("some/teacher", "some/teacher")
    assert distill_recipe.student.tokenizer == default.teacher
    assert distill_recipe.student.vision_init == "random"


def test_the_baseline_trains_for_the_steps_of_both_stages():
    recipes = load_recipes(DemoOptions())
    baseline = without_teacher(*recipes)
    assert baseline.max_steps == sum(recipe.max_steps for recipe in recipes)
    assert (baseline.teacher, baseline.anchor_weight) == (None, 0.0)


@pytest.mark.parametrize(
    ("options", "has_estimate"),
    [
        (DemoOptions(), True),
        (DemoOptions(full=True), True),
        (DemoOptions(max_steps=2), False),
        (DemoOptions(every=40), False),
        (DemoOptions(teacher="some/teacher"), False),
    ],
)
def test_the_plan_has_an_estimate_if_a_committed_run_has_the_same_settings(options, has_estimate):
    assert (estimate_minutes(options) is not None) == has_estimate
    assert ("minutes on two CPU cores" in str(Plan(options))) == has_estimate


def test_the_estimate_grows_with_seeds_and_baseline():
    minutes = estimate_minutes(DemoOptions())
    assert estimate_minutes(DemoOptions(seeds=[0, 1])) == pytest.approx(2 * minutes, abs=1)
    assert estimate_minutes(DemoOptions(compare=True)) == pytest.approx(2 * minutes, abs=1)


def test_the_plan_imports_no_heavy_package(run_python):
    code = """
import sys
from training.demo import options
print(options.Plan(options.DemoOptions()))
print(*{"torch", "transformers", "datasets"} & set(sys.modules), file=sys.stderr)
"""
    run = run_python("-c", code)
    assert run.stdout.startswith("DC-CLIP demo: 5 steps, about ") and run.stderr.strip() == ""


def test_the_next_commands_have_valid_options(tmp_path):
    export, evaluate, publish = (command.split()[1:] for command in next_commands(tmp_path, tmp_path / "corpus"))
    options = dict(zip(evaluate[1::2], evaluate[2::2], strict=True))
    assert {name.removeprefix("--") for name in options} <= {field.name for field in fields(EvalOptions)}
    for command in (export, evaluate, publish):
        assert (ROOT / command[0]).is_file()
    export_options = {field.name for field in fields(ExportOptions)}
    assert export[1] == str(tmp_path / "model") and {name[2:] for name in export[2::2]} <= export_options
    assert publish[1] == str(tmp_path / "model") and "--dry_run" in publish
