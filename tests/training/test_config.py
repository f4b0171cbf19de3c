import json
from pathlib import Path

import pytest
import yaml

from tests.tiny import ROOT
from training.config import AlignRecipe, DistillRecipe, SourceConfig, parse_recipe, save_recipe

FOLDER = ROOT / "training/configs"
CONFIGS = sorted(path.relative_to(FOLDER) for path in FOLDER.rglob("*.yaml") if path.parent.name != "students")
MINIMAL = {
    "output_dir": "runs/x",
    "teacher": "some/teacher",
    "data": {"train": "train.parquet"},
    "student": {"vision_config": {"model_type": "vit"}, "text_config": {"model_type": "bert", "hidden_size": 8}},
}


@pytest.fixture
def write(tmp_path):
    def write(**changes) -> list[str]:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(MINIMAL | changes), encoding="utf-8")
        return ["--config", str(path)]

    return write


def arguments_of(path: Path) -> list[str]:
    """A recipe in a folder below is given after the one of its name, and overrides it."""
    files = [FOLDER / path] if path.parent == Path(".") else [FOLDER / path.name, FOLDER / path]
    return [argument for file in files for argument in ("--config", str(file))]


def refusal(capsys, argv: list[str], recipe_class=DistillRecipe) -> str:
    with pytest.raises(SystemExit) as exit_info:
        parse_recipe(recipe_class, argv)
    assert exit_info.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_published_recipe_parses_and_says_what_is_written(path: Path):
    recipe = parse_recipe(DistillRecipe if "distill" in path.stem else AlignRecipe, arguments_of(path))
    written = yaml.safe_load((FOLDER / path).read_text(encoding="utf-8"))
    numbers = {key: value for key, value in written.items() if isinstance(value, (int, float))}
    assert numbers and {key: getattr(recipe, key) for key in numbers} == numbers


def test_there_are_published_recipes_of_both_stages():
    assert {"demo_distill", "demo_align"} <= {path.stem for path in CONFIGS}


def test_what_yaml_leaves_out_has_its_default(write):
    recipe = parse_recipe(DistillRecipe, write())
    assert (recipe.batch_size, recipe.tower, recipe.data.caption_columns) == (128, "both", {"en": "en", "zh": "zh"})


def test_command_line_wins_over_yaml(write):
    argv = write(max_steps=7, seed=3)
    recipe = parse_recipe(DistillRecipe, [*argv, "--max_steps", "9", "--data.in_memory", "true"])
    assert (recipe.max_steps, recipe.seed) == (9, 3)
    assert recipe.data.in_memory and recipe.data.train == "train.parquet"


def test_nested_tower_config_stays_a_plain_dict(write):
    assert parse_recipe(DistillRecipe, write()).student.text_config == {"model_type": "bert", "hidden_size": 8}


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_a_student_can_be_a_file_of_its_own(write, size):
    file = FOLDER / f"students/{size}.yaml"
    recipe = parse_recipe(DistillRecipe, [*write(), "--student", str(file), "--student.max_text_length", "12"])
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert recipe.student.vision_init == written["vision_init"] and recipe.student.max_text_length == 12


def test_a_student_file_that_is_not_there_is_refused_by_name(write, capsys):
    assert "nowhere.yaml" in refusal(capsys, [*write(), "--student", "nowhere.yaml"])


def test_exponent_without_a_point_is_a_number(tmp_path):
    # YAML 1.1 reads 1e-4 as text
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(MINIMAL) + "learning_rate: 1e-4\n", encoding="utf-8")
    assert parse_recipe(DistillRecipe, ["--config", str(path)]).learning_rate == 1e-4


@pytest.mark.parametrize(
    ("arguments", "expected"), [([], False), (["--resume"], True), (["--resume", "false"], False)]
)
def test_resume_is_a_flag(write, arguments, expected):
    assert parse_recipe(DistillRecipe, [*write(), *arguments]).resume is expected


def test_resume_can_stand_in_yaml(write):
    assert parse_recipe(DistillRecipe, write(resume=True)).resume is True


def test_flag_before_another_option_does_not_swallow_it(write):
    recipe = parse_recipe(DistillRecipe, [*write(), "--resume", "--seed", "5"])
    assert recipe.resume is True and recipe.seed == 5


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"learnign_rate": 0.1}, "learnign_rate"),
        ({"data": {"train": "x", "imagecolumn": "y"}}, "imagecolumn"),
        ({"augment": {"zooom": 1}}, "zooom"),
    ],
)
def test_unknown_key_in_yaml_is_refused_by_name(write, capsys, changes, key):
    assert key in refusal(capsys, write(**changes))


def test_unknown_key_on_the_command_line_is_refused_by_name(write, capsys):
    assert "max_step" in refusal(capsys, [*write(), "--max_stepz", "3"])


def test_abbreviations_are_refused(write, capsys):
    assert "max_st" in refusal(capsys, [*write(), "--max_st", "3"])


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"max_steps": "many"}, "max_steps", "many"),
        ({"tower": "audio"}, "tower", "audio"),
        ({"mixed_precision": "int3"}, "mixed_precision", "int3"),
        ({"freeze": 3}, "freeze", "3"),
        ({"data": {"train": "x", "workers": "two"}}, "workers", "two"),
    ],
)
def test_wrong_type_is_refused_with_field_and_value(write, capsys, changes, key, value):
    message = refusal(capsys, write(**changes))
    assert key in message and value in message


@pytest.mark.parametrize(("key", "least"), [("max_steps", 1), ("batch_size", 1), ("log_every", 1), ("save_every", 0)])
def test_value_below_its_range_is_refused(write, capsys, key, least):
    assert f"{key} must be at least {least}, got {least - 1}" in refusal(capsys, write(**{key: least - 1}))


def test_no_caption_column_is_refused(write, capsys):
    assert "data.caption_columns" in refusal(capsys, write(data={"train": "x", "caption_columns": {}}))


def test_a_mixture_is_read_from_yaml_and_from_the_command_line(write, tmp_path):
    sources = [
        {"train": ["a.tar", "b.tar"], "caption_columns": {"en": "txt"}, "weight": 2},
        {"train": "zh.parquet", "caption_columns": {"zh": "caption"}, "image_column": "jpg"},
    ]
    expected = [
        SourceConfig(
            train=["a.tar", "b.tar"], split="train", image_column="image", caption_columns={"en": "txt"}, weight=2
        ),
        SourceConfig(train="zh.parquet", split="train", image_column="jpg", caption_columns={"zh": "caption"}),
    ]
    from_yaml = parse_recipe(DistillRecipe, write(data={"sources": sources}))
    typed = parse_recipe(DistillRecipe, [*write(data={"train": None}), "--data.sources", json.dumps(sources)])
    for recipe in (from_yaml, typed):
        assert recipe.data.mixture == expected and recipe.data.languages == ["en", "zh"]
    save_recipe(typed, tmp_path)
    assert parse_recipe(DistillRecipe, ["--config", str(tmp_path / "recipe.yaml")]) == typed
    one = parse_recipe(DistillRecipe, write(data={"train": "x"}))
    assert [source.train for source in one.data.mixture] == ["x"] and one.data.languages == ["en", "zh"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"train": None}, "either train, for one source, or sources"),
        ({"train": "x", "sources": [{"train": "y"}]}, "either train, for one source, or sources"),
        ({"sources": [{"train": "y", "weight": 0}]}, "a weight must be above 0, got 0"),
        ({"sources": [{"train": "y", "caption_columns": {}}]}, "data.caption_columns is empty"),
        ({"train": "x", "shuffle_buffer": 0}, "shuffle_buffer at least 1, got 0 and 0"),
        ({"train": "x", "workers": -1}, "workers must be at least 0"),
        ({"train": "x", "streaming": True, "in_memory": True}, "data.in_memory keeps every image"),
        ({"train": "x", "batches": "by_colour"}, "batches"),
    ],
)
def test_data_that_cannot_be_are_refused(write, capsys, data, problem):
    assert problem in refusal(capsys, write(data=data))


@pytest.mark.parametrize("missing", ["output_dir", "teacher", "data"])
def test_missing_key_is_refused_by_name(tmp_path, capsys, missing):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in MINIMAL.items() if key != missing}))
    assert missing in refusal(capsys, ["--config", str(path)])


def test_missing_file_is_refused_by_name(capsys):
    assert "nowhere.yaml" in refusal(capsys, ["--config", "nowhere.yaml"])


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_saved_recipe_reads_back_equal(path, tmp_path):
    recipe_class = DistillRecipe if "distill" in path.stem else AlignRecipe
    recipe = parse_recipe(recipe_class, [*arguments_of(path), "--betas", "[0.8, 0.95]", "--resume"])
    save_recipe(recipe, tmp_path)
    assert parse_recipe(recipe_class, ["--config", str(tmp_path / "recipe.yaml")]) == recipe
