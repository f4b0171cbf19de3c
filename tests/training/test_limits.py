"""Every number of a recipe at and beyond the ends of its range: accepted, or refused by name in one line."""

import math
import re
from dataclasses import fields
from typing import Any

import pytest
import yaml

from training.config import (
    AlignRecipe,
    AugmentConfig,
    DataConfig,
    DistillRecipe,
    SourceConfig,
    StudentConfig,
    TeacherConfig,
    recipe_from_args,
)
from training.config.sections import ABOVE_0, BELOW_1, LIMITS, MOST

NEEDED: dict[type, dict[str, Any]] = {
    DistillRecipe: {"output_dir": "x", "data": DataConfig(train="x"), "teacher": "x", "student": StudentConfig()},
    AlignRecipe: {"output_dir": "x", "data": DataConfig(train="x"), "student": "x", "anchor_weight": 1.0},
    DataConfig: {"train": "x.parquet"},
    SourceConfig: {"train": "x.parquet"},
    TeacherConfig: {"teacher": "x"},
    AugmentConfig: {},
    StudentConfig: {},
}
NUMBERS = [
    (config, option.name, option.type)
    for config in NEEDED
    for option in fields(config)
    if option.type in (int, float, int | None, float | None)
]


def make(config: type, **fields: Any) -> Any:
    return config(**NEEDED[config] | fields)


def test_every_number_of_a_recipe_has_limits():
    assert {name for _, name, _ in NUMBERS if not name.endswith("_weight")} == set(LIMITS)


@pytest.mark.parametrize(("config", "name", "kind"), NUMBERS)
def test_a_number_is_refused_by_name_beyond_the_ends_of_its_range(config, name, kind):
    low, high = LIMITS.get(name, (0, MOST))
    ends = (low, high) if kind in (float, float | None) else (int(low), int(high))
    for value in ends:
        if name != "eval_every" or not value:  # which needs a labelled set, too
            assert getattr(make(config, **{name: value}), name) == value
    beyond = (math.nextafter(low, -math.inf), math.nextafter(high, math.inf), math.nan, math.inf, -math.inf, -1)
    for value in beyond:
        if value > high:
            allowed = "less than 1" if high == BELOW_1 else f"at most {high:,.0f}"
        else:
            allowed = "above 0" if low == ABOVE_0 else f"at least {low}"
        with pytest.raises(ValueError, match=rf"^{re.escape(config.path)}{name}: must be {allowed}, got {value}\."):
            make(config, **{name: value})


@pytest.mark.parametrize("betas", [(0.9, 1.0), (-0.1, 0.9), (math.nan, 0.5), (0.5, math.inf)])
def test_decay_rates_out_of_range_are_refused(betas):
    with pytest.raises(ValueError, match=r"^betas: must be at least 0 and less than 1"):
        make(DistillRecipe, betas=betas)


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf])
def test_weights_of_languages_out_of_range_are_refused(weight):
    with pytest.raises(ValueError, match=r"^language_weights\.zh: must be at least 0"):
        make(AlignRecipe, language_weights={"en": 1.0, "zh": weight})


@pytest.mark.parametrize(
    ("section", "name", "value"), [("", "batch_size", 0), ("augment", "flip", 2), ("", "seed", -1)]
)
def test_a_recipe_file_with_a_number_out_of_range_is_refused_by_name(tmp_path, section, name, value):
    content: dict[str, Any] = {"output_dir": "x", "data": {"train": "x.parquet"}, "teacher": "x", "student": {}}
    content |= {section: {name: value}} if section else {name: value}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=rf"^({section}\.)?{name}: must be "):
        recipe_from_args(DistillRecipe, ["--config", str(tmp_path / "recipe.yaml")])
