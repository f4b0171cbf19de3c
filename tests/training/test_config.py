"""Recipes: parsing of YAML and command lines, limits of numbers, published recipes."""

import json
import math
import re
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny import ROOT
from training.config import (
    AlignRecipe,
    AugmentConfig,
    DataConfig,
    DistillRecipe,
    SourceConfig,
    StudentConfig,
    parse_recipe,
    recipe_from_args,
    save_recipe,
)
from training.config.sections import LIMITS, MOST

FOLDER = ROOT / "training/configs"
CONFIGS = sorted(
    path.relative_to(FOLDER) for path in FOLDER.rglob("*.yaml") if path.parent.name != "students"
)
MINIMAL = {
    "output_dir": "runs/x",
    "teacher": "some/teacher",
    "data": {"train": "train.parquet"},
    "student": {
        "vision_config": {"model_type": "vit"},
        "text_config": {"model_type": "bert", "hidden_size": 8},
    },
}


@pytest.fixture
def write(tmp_path):
    def write(**changes) -> list[str]:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(MINIMAL | changes), encoding="utf-8")
        return ["--config", str(path)]

    return write


def arguments_of(path: Path) -> list[str]:
    """A recipe in a subfolder overrides the one of the same name, if there is one, so it comes second."""
    files = dict.fromkeys([FOLDER / path.name, FOLDER / path])
    return [argument for file in files if file.exists() for argument in ("--config", str(file))]


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_published_recipe_parses_to_its_own_numbers(path: Path):
    recipe = parse_recipe(
        DistillRecipe if "distill" in path.stem else AlignRecipe, arguments_of(path)
    )
    written = yaml.safe_load((FOLDER / path).read_text(encoding="utf-8"))
    numbers = {key: value for key, value in written.items() if isinstance(value, (int, float))}
    assert numbers and {key: getattr(recipe, key) for key in numbers} == numbers


def test_command_line_wins_over_yaml(write):
    argv = write(max_steps=7, seed=3)
    recipe = parse_recipe(DistillRecipe, [*argv, "--max_steps", "9", "--data.in_memory", "true"])
    assert (recipe.max_steps, recipe.seed) == (9, 3)
    assert recipe.data.in_memory and recipe.data.train == "train.parquet"


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_the_student_can_be_a_separate_file(write, size):
    file = FOLDER / f"students/{size}.yaml"
    recipe = parse_recipe(
        DistillRecipe, [*write(), "--student", str(file), "--student.max_text_length", "12"]
    )
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert (
        recipe.student.vision_init == written["vision_init"]
        and recipe.student.max_text_length == 12
    )


def test_exponent_without_a_point_is_a_number(tmp_path):
    # YAML 1.1 parses 1e-4 as a string
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(MINIMAL) + "learning_rate: 1e-4\n", encoding="utf-8")
    assert parse_recipe(DistillRecipe, ["--config", str(path)]).learning_rate == 1e-4


@pytest.mark.parametrize(
    "name", ["resume", "gradient_checkpointing", "torch_compile", "hub_private_repo"]
)
@pytest.mark.parametrize(
    ("values", "expected"), [(None, False), ([], True), (["false"], False), (["true"], True)]
)
def test_booleans_that_are_false_by_default_are_flags(write, name, values, expected):
    arguments = [] if values is None else [f"--{name}", *values]
    assert getattr(parse_recipe(DistillRecipe, [*write(), *arguments]), name) is expected


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"eval_every": 5}, "eval_every: "),
        ({"push_to_hub": True}, "push_to_hub: "),
        ({"data": {"train": None}}, "data: "),
        ({"data": {"train": "x", "sources": [{"train": "y"}]}}, "data: "),
        (
            {"data": {"sources": [{"train": "y", "weight": 0}]}},
            "data.sources.weight: must be above 0, got 0.0.",
        ),
        ({"data": {"sources": [{"train": "y", "caption_columns": {}}]}}, "data.caption_columns: "),
        (
            {"data": {"train": "x", "caption_columns": {False: "en"}}},
            "data.caption_columns: False is not a language",
        ),
        (
            {"data": {"train": "x", "caption_columns": {"EN": "en"}}},
            "data.caption_columns: 'EN' is not a ",
        ),
        ({"data": {"train": "x", "streaming": True, "in_memory": True}}, "data.in_memory: "),
        (
            {"data": {"sources": ["a.parquet"]}},
            "data.sources: Problem with given class_path 'a.parquet'",
        ),
        ({"mixed_precision": False}, "mixed_precision: Does not validate"),
        (
            {"own_weight": 1},
            "config: has no field 'own_weight'. For a loss of your own, name its module with --import.",
        ),
        ({"teacher": None}, "teacher: "),
        ({"teachers": [{"teacher": "a"}]}, "config: has no field 'teachers"),
        ({"betas": [0.9, 1.0]}, "betas: "),
        ({"seed": None}, "seed: has no value."),
        ({"data": {"train": "x", "workers": None}}, "data.workers: has no value."),
        ({"student": {"image_mean": [0.5, 0.5]}}, "student.image_mean: "),
        ({"student": {"image_std": [0.5, 0.0, 0.5]}}, "student.image_std: "),
        (
            {"augment": {"\x1bflip": 1}},
            r"augment: has no field '\x1bflip'. See --help",
        ),  # it is escaped
        ({"path": {";": None}}, "config: has no field 'path.;'. See --help"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused_by_its_field(write, capsys, changes, problem):
    with pytest.raises(SystemExit) as stopped:
        parse_recipe(DistillRecipe, write(**changes), "python training/distill.py")
    message = capsys.readouterr().err
    assert (
        stopped.value.code == 2
        and message.startswith(f"distill: {problem}")
        and message.count("\n") == 1
    )


def test_a_boolean_no_in_yaml_gets_a_hint(write):
    with pytest.raises(
        ValueError, match=r'Given value: False\. In YAML, write "no" in quotation marks\.'
    ):
        recipe_from_args(DistillRecipe, write(mixed_precision=False))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", "my_class.X"),
        ("data", {"class_path": "my_class.X"}),
        ("data", "{class_path: my_class.X}"),
        ("data", {"sources": ["my_class.X"]}),
        ("data", {"sources": "[{class_path: my_class.X}]"}),
        ("augment", {"class_path": "my_class.X", "init_args": {}}),
        ("eval.class_path", "my_class.X"),
        ("student", "my_class.X"),
        ("student", "nested.yaml"),
    ],
)
def test_a_recipe_file_imports_no_class(write, field, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_class.py").write_text("class X:\n    pass\n", encoding="utf-8")
    (tmp_path / "nested.yaml").write_text("class_path: my_class.X\n", encoding="utf-8")
    with pytest.raises(ValueError):  # in the words of jsonargparse
        recipe_from_args(DistillRecipe, write(**{field: value}))
    assert "my_class" not in sys.modules


def test_evaluation_data_may_be_a_file(write, tmp_path):
    (tmp_path / "val.parquet").write_bytes(b"PAR1")
    fields = {"data": str(tmp_path / "val.parquet"), "class_names": "names.json"}
    assert recipe_from_args(DistillRecipe, write(eval=fields)).eval.data == fields["data"]


def test_the_file_of_a_section_may_be_in_the_working_directory(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "crops.yaml").write_text("zoom: 0.375\n", encoding="utf-8")
    for typed in (["--augment", "crops.yaml"], ["--augment=crops.yaml"]):
        assert recipe_from_args(DistillRecipe, [*write(), *typed]).augment.zoom == 0.375


def test_a_mixture_can_be_given_in_yaml_or_on_the_command_line(write, tmp_path):
    sources = [
        {"train": ["a.tar", "b.tar"], "caption_columns": {"en": "txt"}, "weight": 2},
        {"train": "zh.parquet", "caption_columns": {"zh": "caption"}, "image_column": "jpg"},
    ]
    expected = [
        SourceConfig(
            train=["a.tar", "b.tar"],
            split="train",
            image_column="image",
            caption_columns={"en": "txt"},
            weight=2,
        ),
        SourceConfig(
            train="zh.parquet", split="train", image_column="jpg", caption_columns={"zh": "caption"}
        ),
    ]
    from_yaml = parse_recipe(DistillRecipe, write(data={"sources": sources}))
    typed = parse_recipe(
        DistillRecipe, [*write(data={"train": None}), "--data.sources", json.dumps(sources)]
    )
    for recipe in (from_yaml, typed):
        assert recipe.data.mixture == expected and recipe.data.languages == ["en", "zh"]
    save_recipe(typed, tmp_path)
    assert parse_recipe(DistillRecipe, ["--config", str(tmp_path / "recipe.yaml")]) == typed
    one = parse_recipe(DistillRecipe, write(data={"train": "x"}))
    assert [source.train for source in one.data.mixture] == ["x"] and one.data.languages == [
        "en",
        "zh",
    ]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("data.train", {"data": {"train": "os:abort"}}),
        ("eval.data", {"eval": {"data": "os:abort"}}),
        ("photos", {"photos": "os:abort", "photo_weight": 1}),
    ],
)
def test_no_source_of_a_recipe_file_may_be_a_function(write, field, values):
    with pytest.raises(
        ValueError, match=f"^{field}: 'os:abort' in the recipe is a function.*--trust_recipe_code"
    ):
        recipe_from_args(AlignRecipe, write(student="some/student", **values))


def test_a_recipe_file_does_not_trust_itself(write):
    with pytest.raises(ValueError, match=r"^data.train: 'os:abort' in the recipe is a function"):
        recipe_from_args(DistillRecipe, write(data={"train": "os:abort"}, trust_recipe_code=True))


def test_a_function_is_a_source_if_the_user_types_or_trusts_it(write):
    for trusted in (["--trust_recipe_code"], ["--data.train", "os:abort"]):
        argv = [*write(data={"train": "os:abort"}), *trusted]
        assert recipe_from_args(DistillRecipe, argv).data.train == "os:abort"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"contrastive_weight": 0}, "contrastive_weight: all losses have the weight 0"),
        ({"classifier": "a.safetensors"}, "classifier: class_weight is 0, so it would not be used"),
        ({"photos": "a.parquet"}, "photos: photo_weight is 0, so they would not be used"),
        (
            {"photo_weight": 1, "teacher_cache": "cache"},
            "photo_weight: is 1, but a cache has no targets",
        ),
        ({"teacher_cache": "cache"}, "teacher_cache: is 'cache', but no teacher is named"),
    ],
)
def test_a_stage_2_that_would_learn_nothing_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AlignRecipe(output_dir="x", data=DataConfig(train="y"), student="z", **fields)


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_a_saved_recipe_is_read_back_equal_apart_from_how_it_was_started(path, tmp_path):
    recipe_class = DistillRecipe if "distill" in path.stem else AlignRecipe
    recipe = parse_recipe(
        recipe_class, [*arguments_of(path), "--betas", "[0.8, 0.95]", "--resume", "--overwrite"]
    )
    save_recipe(recipe, tmp_path)
    saved = parse_recipe(recipe_class, ["--config", str(tmp_path / "recipe.yaml")])
    assert saved == replace(recipe, resume=False, overwrite=False)


NEEDED: dict[type, dict[str, Any]] = {
    DistillRecipe: {
        "output_dir": "x",
        "data": DataConfig(train="x"),
        "teacher": "x",
        "student": StudentConfig(),
    },
    AlignRecipe: {
        "output_dir": "x",
        "data": DataConfig(train="x"),
        "student": "x",
        "anchor_weight": 1.0,
    },
    DataConfig: {"train": "x.parquet"},
    SourceConfig: {"train": "x.parquet"},
    AugmentConfig: {},
    StudentConfig: {},
}
NUMBERS = [
    (config, option.name)
    for config in NEEDED
    for option in fields(config)
    if option.type in (int, float, int | None, float | None)
]


def test_every_number_is_refused_by_name_beyond_the_ends_of_its_range():
    assert {name for _, name in NUMBERS if not name.endswith("_weight")} == set(LIMITS)
    for config, name in NUMBERS:
        low, high = LIMITS.get(name, (0, MOST))
        for value in (low, high):
            if name != "eval_every" or not value:  # which needs a labelled set, too
                config(**NEEDED[config] | {name: value})
        for value in (math.nextafter(low, -math.inf), math.nextafter(high, math.inf), math.nan, -1):
            with pytest.raises(ValueError, match=rf"^{re.escape(config.path)}{name}: must be "):
                config(**NEEDED[config] | {name: value})
