"""Options and recipes of the demo."""

from training.config import CONFIGS, AlignRecipe, parse_recipe
from training.demo.options import DemoOptions, load_recipes


def test_data_and_augmentation_are_the_same_in_all_recipes():
    distill_recipe, align_recipe = load_recipes(DemoOptions())
    teacher_recipe = parse_recipe(AlignRecipe, ["--config", str(CONFIGS / "demo_teacher.yaml")])
    assert align_recipe.augment == distill_recipe.augment == teacher_recipe.augment
    assert align_recipe.data == distill_recipe.data == teacher_recipe.data
    assert align_recipe.teacher_views == distill_recipe.teacher_views  # the cache is shared


def test_steps_and_seed_of_the_options_reach_both_recipes():
    for recipe in load_recipes(DemoOptions(max_steps=3, seed=7)):
        assert (recipe.max_steps, recipe.seed) == (3, 7)
