"""Recipes: reading from YAML and the command line, ranges and contradictions, published recipes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.tiny import ROOT
from training.config import (
    AlignRecipe,
    DataConfig,
    DistillRecipe,
    SourceConfig,
    parse_recipe,
    save_recipe,
)
from training.config.files import read_recipe

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


def class_of(path: Path) -> type:
    return DistillRecipe if "distill" in path.stem else AlignRecipe


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_published_recipe_parses_to_its_own_numbers(path: Path):
    recipe = parse_recipe(class_of(path), arguments_of(path))
    written = yaml.safe_load((FOLDER / path).read_text(encoding="utf-8"))
    numbers = {key: value for key, value in written.items() if isinstance(value, (int, float))}
    assert numbers and {key: getattr(recipe, key) for key in numbers} == numbers


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_a_saved_recipe_is_read_back_equal_apart_from_how_it_was_started(path, tmp_path):
    arguments = [*arguments_of(path), "--betas", "0.8", "0.95", "--resume", "--overwrite"]
    recipe = parse_recipe(class_of(path), arguments)
    save_recipe(recipe, tmp_path)
    saved = parse_recipe(class_of(path), ["--config", str(tmp_path / "recipe.yaml")])
    assert saved == replace(recipe, resume=False, overwrite=False)


def test_a_saved_recipe_says_how_far_its_run_came(write, tmp_path):
    recipe = parse_recipe(DistillRecipe, write(max_steps=5))
    for num_steps, processes, comments in [
        (None, 1, []),
        (5, 1, []),
        (3, 1, ["# number of steps done: 3"]),
        (3, 2, ["# number of processes: 2", "# number of steps done: 3"]),
    ]:
        save_recipe(recipe, tmp_path, num_processes=processes, num_steps=num_steps)
        lines = (tmp_path / "recipe.yaml").read_text(encoding="utf-8").splitlines()
        assert [line for line in lines if line.startswith("#")] == comments
        read = read_recipe(tmp_path / "recipe.yaml")
        assert read["num_processes"] == processes
        assert read["num_steps"] == (None if num_steps == 5 else num_steps)
        assert read["max_steps"] == 5


def test_the_file_of_a_section_is_relative_to_the_recipe_that_names_it(write, tmp_path):
    (tmp_path / "crops.yaml").write_text("zoom: 0.375\n", encoding="utf-8")
    assert parse_recipe(DistillRecipe, write(augment="crops.yaml")).augment.zoom == 0.375


@pytest.mark.parametrize(
    ("values", "expected"), [(None, False), ([], True), (["false"], False), (["true"], True)]
)
def test_a_boolean_is_a_flag_with_or_without_a_value(write, values, expected):
    arguments = [] if values is None else ["--resume", *values]
    assert parse_recipe(DistillRecipe, [*write(), *arguments]).resume is expected


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"max_steps": 0}, "max_steps: Input should be greater than or equal to 1, got 0."),
        ({"ema_decay": float("nan")}, "ema_decay: "),
        ({"student": {"image_std": [0.5, 0.0, 0.5]}}, "student.image_std.1: "),
        ({"data": {"train": "x", "caption_columns": {"EN": "en"}}}, "data.caption_columns.EN"),
        ({"data": {"train": "x", "caption_columns": {}}}, "data.caption_columns: "),
        (
            {"data": {"sources": [{"train": "y", "caption_columns": {}}]}},
            "data.sources.0.caption_columns: ",
        ),
        ({"data": {"sources": [{"train": "y", "wieght": 1}]}}, "data.sources.0.wieght: "),
        ({"own_weight": 1}, "own_weight: is not an option."),
        ({"augment": 5}, "augment: "),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_its_field(write, changes, problem):
    with pytest.raises(ValueError) as refused:
        parse_recipe(DistillRecipe, write(**changes))
    assert str(refused.value).startswith(problem)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"eval_every": 5}, "eval_every: needs a labeled set"),
        ({"push_to_hub": True}, "push_to_hub: needs a repository"),
        ({"data": {"train": None}}, "data: set either train"),
        ({"data": {"train": "x", "sources": [{"train": "y"}]}}, "data: set either train"),
        ({"data": {"train": "x", "streaming": True, "in_memory": True}}, "data.in_memory: "),
        ({"teacher": None}, "teacher: none is named"),
        ({"map_weight": 0, "embedding_weight": 0}, "weights: all losses have the weight 0"),
        ({"prefixes": [64], "embedding_weight": 0.0}, "prefixes: shorten the embedding"),
        ({"named_targets": "n", "tower": "vision"}, "named_targets: are targets of numbered"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(write, changes, problem):
    with pytest.raises(ValueError, match=f"^{problem}"):
        parse_recipe(DistillRecipe, write(**changes))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"contrastive_weight": 0}, "weights: all losses have the weight 0"),
        ({"teacher_cache": "c"}, "teacher_cache: would not be used without teacher"),
        ({"photo_weight": 1, "teacher_cache": "c"}, "photo_weight: is 1, but a cache has no"),
    ],
)
def test_a_stage_2_whose_options_would_do_nothing_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AlignRecipe(output_dir="x", data=DataConfig(train="y"), student="z", **fields)


@pytest.mark.parametrize(
    ("fields", "starts", "shares", "towers"),
    [
        ({}, True, True, ("vision",)),
        ({"anchor_weight": 1.0}, True, True, ("vision", "text")),
        ({"freeze": []}, True, False, ("vision", "text")),
        ({"teacher_cache": None}, True, False, ("vision", "text")),
        ({"student": "other"}, False, False, ("vision", "text")),
    ],
)
def test_a_student_that_starts_as_its_teacher_may_share_its_image_tower(
    fields, starts, shares, towers
):
    fields = {"student": "t", "freeze": ["vision_model"], "teacher_cache": "c"} | fields
    data = DataConfig(train="y")
    recipe = AlignRecipe(output_dir="x", data=data, teacher="t", **fields)
    assert (recipe.starts_from_teacher, recipe.shares_image_tower) == (starts, shares)
    assert recipe.teacher_towers == towers


def test_a_mixture_can_be_given_in_yaml_or_on_the_command_line(write):
    sources = [
        {"train": ["a.tar", "b.tar"], "caption_columns": {"en": "txt"}, "weight": 2},
        {"train": "zh.parquet", "caption_columns": {"zh": "caption"}, "image_column": "jpg"},
    ]
    expected = [
        SourceConfig(
            train=["a.tar", "b.tar"],
            image_column="image",
            caption_columns={"en": "txt"},
            weight=2,
        ),
        SourceConfig(train="zh.parquet", image_column="jpg", caption_columns={"zh": "caption"}),
    ]
    from_yaml = parse_recipe(DistillRecipe, write(data={"sources": sources}))
    typed = [*write(data={"train": None}), "--data.sources", json.dumps(sources)]
    for recipe in (from_yaml, parse_recipe(DistillRecipe, typed)):
        assert recipe.data.mixture == expected
        assert recipe.data.languages == ["en", "zh"]


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("data.sources.train", {"data": {"sources": [{"train": "os:abort"}]}}),
        ("eval.data", {"eval": {"data": "os:abort"}}),
    ],
)
def test_a_function_in_a_recipe_file_needs_trust(write, field, changes):
    argv = write(**changes)
    with pytest.raises(ValueError, match=f"^{field}: 'os:abort' names a function.*--trust_recipe"):
        parse_recipe(DistillRecipe, argv)
    parse_recipe(DistillRecipe, [*argv, "--trust_recipe_code"])


def test_a_function_of_ours_needs_no_trust(write):
    data = {"train": "training.experiments.corpus.emoji:load_train"}
    assert parse_recipe(DistillRecipe, write(data=data)).data.train == data["train"]


def test_absolute_paths_are_saved_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = DataConfig(train=str(tmp_path / "x.parquet"))
    save_recipe(AlignRecipe(output_dir="out", data=data, student="s"), tmp_path)
    saved = parse_recipe(AlignRecipe, ["--config", "recipe.yaml"])
    assert saved.data.train == "x.parquet"
