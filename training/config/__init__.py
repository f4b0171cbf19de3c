"""Recipes: typed dataclasses that are read from YAML and the command line and saved with the weights.

sections.py   data, augmentation, student, evaluation
recipes.py    the recipes of both stages
files.py      read a recipe from YAML and the command line, and save it
"""

from training.config.files import (
    CONFIGS,
    RECIPE_FILE,
    parse_recipe,
    plain,
    read_recipe,
    save_recipe,
)
from training.config.recipes import AlignRecipe, DistillRecipe, TrainingRecipe
from training.config.sections import (
    AugmentConfig,
    DataConfig,
    EvalConfig,
    SourceConfig,
    StudentConfig,
)
