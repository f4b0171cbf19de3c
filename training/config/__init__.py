"""Recipes: typed dataclasses that are read from YAML and the command line and saved beside the weights.

limits.py     allowed ranges of numbers
sections.py   data, augmentation, student, teachers, evaluation
recipes.py    the recipes of both stages
files.py      read a recipe from YAML and the command line, and save it
"""

from training.config.files import (
    CONFIGS,
    OF_ONE_START,
    RECIPE_FILE,
    parse_recipe,
    read_recipe,
    recipe_from_args,
    save_recipe,
    stored_fields,
)
from training.config.limits import LIMITS, Checked, Limits
from training.config.recipes import AlignRecipe, DistillRecipe, TrainingRecipe
from training.config.sections import (
    AugmentConfig,
    DataConfig,
    EvalConfig,
    SourceConfig,
    StudentConfig,
    TeacherConfig,
)

__all__ = [
    "CONFIGS",
    "LIMITS",
    "OF_ONE_START",
    "RECIPE_FILE",
    "AlignRecipe",
    "AugmentConfig",
    "Checked",
    "DataConfig",
    "DistillRecipe",
    "EvalConfig",
    "Limits",
    "SourceConfig",
    "StudentConfig",
    "TeacherConfig",
    "TrainingRecipe",
    "parse_recipe",
    "read_recipe",
    "recipe_from_args",
    "save_recipe",
    "stored_fields",
]
