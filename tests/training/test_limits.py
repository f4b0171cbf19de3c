"""Every number of a recipe at and beyond the edges of its range: accepted, or refused by name in one line."""

import math
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from training.config import (
    LIMITS,
    AlignRecipe,
    AugmentConfig,
    DataConfig,
    DistillRecipe,
    Limits,
    SourceConfig,
    StudentConfig,
    recipe_from_args,
)

CLASSES = (DistillRecipe, AlignRecipe, DataConfig, SourceConfig, AugmentConfig, StudentConfig)
NUMBERS = [
    (config, option.name)
    for config in CLASSES
    for option in fields(config)
    if option.type in (int, float, int | None, float | None)
]
ANY_NUMBER = st.one_of(st.integers(), st.floats())
# names of other fields, for errors of rules between fields
OTHER_RULES = (
    "eval_every: needs a labelled set",
    "embedding_weight: is 0",
    "contrastive_weight: all losses have",
    "classifier: is not set",
)


def edges(limits: Limits, is_whole: bool) -> Iterator[float]:
    """The ends of a range and their nearest neighbours, and values that no range has."""
    ends = {limits.at_least, limits.at_most, limits.above, limits.below, limits.ceiling}
    for end in sorted(end for end in ends if math.isfinite(end)):
        yield from (end - 1, end, end + 1) if is_whole else (
            math.nextafter(end, -math.inf), end, math.nextafter(end, math.inf), end - 1, end + 1,
        )  # fmt: skip
    yield from (math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7e308, -1.7e308, 10**30, -(10**30))


def make(config: type, values: dict[str, Any]) -> Any:
    needed: dict[type, dict[str, Any]] = {
        DistillRecipe: {
            "output_dir": "x", "data": DataConfig(train="x.parquet"), "teacher": "x", "student": StudentConfig(),
        },
        AlignRecipe: {"output_dir": "x", "data": DataConfig(train="x.parquet"), "student": "x"},
        DataConfig: {"train": "x.parquet"},
        SourceConfig: {"train": "x.parquet"},
    }  # fmt: skip
    return config(**needed.get(config, {}) | values)


def check(config: Any, name: str, value: float):
    """A number within its range is accepted, unless a rule between fields refuses it; others are refused by name."""
    try:
        assert getattr(make(config, {name: value}), name) is value
    except ValueError as error:
        message = str(error)
        assert "\n" not in message and len(message) < 400
        if value in LIMITS[name]:
            assert message.startswith(OTHER_RULES)
        else:
            assert re.match(rf"{re.escape(config.path)}{name}: must be (at least|at most|above|less than) ", message)
            assert f", got {value}." in message
    else:
        assert value in LIMITS[name]


def test_every_number_of_a_recipe_has_limits():
    assert {name for _, name in NUMBERS} == set(LIMITS)


@pytest.mark.parametrize(("config", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_every_edge(config, name):
    is_whole = next(option.type for option in fields(config) if option.name == name) in (int, int | None)
    for value in edges(LIMITS[name], is_whole):
        check(config, name, value)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(NUMBERS), ANY_NUMBER)
def test_any_number(number, value):
    check(*number, value)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(ANY_NUMBER, max_size=3))
@example([0.9, 1.0])
@example([math.nan, 0.5])
def test_any_decay_rates(betas):
    try:
        make(DistillRecipe, {"betas": tuple(betas)})
    except ValueError as error:
        assert str(error).startswith("betas: must be at least 0 and less than 1, got ") and "\n" not in str(error)
    else:
        assert all(0 <= beta < 1 for beta in betas)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from(("language_weights", "extra_weights")),
    st.dictionaries(st.sampled_from(("en", "zh", "x")), ANY_NUMBER, min_size=1),
)
def test_any_weights_of_losses(name, weights):
    try:
        make(AlignRecipe, {name: weights})
    except ValueError as error:
        assert re.match(rf"{name}(\.\w+)?: (must be at least 0, got|all are 0)", str(error)) and "\n" not in str(error)
    else:
        assert all(0 <= weight < math.inf for weight in weights.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "name"),
    [(config, name) for config, name in NUMBERS if config is not SourceConfig],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_recipe_file_with_a_number_beyond_an_edge_is_refused_by_name(tmp_path, config, name):
    """The whole way of a user: a YAML file, its types, its ranges."""
    recipe_class = config if config in (DistillRecipe, AlignRecipe) else DistillRecipe
    needed: dict[str, Any] = {"output_dir": "x", "data": {"train": "x.parquet"}}
    needed |= {"teacher": "x", "student": {}} if recipe_class is DistillRecipe else {"student": "x"}
    limits = LIMITS[name]
    largest = min(limits.at_most, limits.ceiling, limits.below)
    smallest = limits.at_least if math.isfinite(limits.at_least) else limits.above
    for value in (int(largest) + 1, int(smallest) - 1):
        section = config.path.rstrip(".")
        content = needed | ({section: needed.get(section, {}) | {name: value}} if section else {name: value})
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        with pytest.raises(ValueError) as refused:
            recipe_from_args(recipe_class, ["--config", str(path)])
        assert re.match(rf"{re.escape(config.path)}{name}: ", str(refused.value)), str(refused.value)
        assert "\n" not in str(refused.value)
