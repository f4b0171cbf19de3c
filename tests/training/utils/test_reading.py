"""The reader of values from outside: strict YAML and JSON, types and ranges."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from training.utils.ranges import Pixels
from training.utils.reading import check_value, parse_yaml, read_mapping


def write(folder: Path, content: str, name: str = "config.json") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("no", "no"),
        ("1e-4", 1e-4),
        ("010", "010"),
        ("2020-01-01", "2020-01-01"),
        ("null", None),
        ("[1, 2.0]", [1, 2.0]),
    ],
)
def test_yaml_has_the_values_of_version_1_2(text, value):
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


def test_an_anchor_is_expanded_once():
    assert parse_yaml("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}") == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": {"b": 1, "e": 2},
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "an alias inside an anchored value"),
        ("x: {b: {c: 1, c: 2}}", "the key 'c' appears twice"),
        ("!!python/object/apply:os.abort []", "could not determine a constructor"),
        ("[" * 1000, "recursion"),
        ("a: [1", "line 1, column"),
    ],
)
def test_yaml_that_expands_or_contradicts_itself_is_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        parse_yaml(text)


def test_a_mapping_of_the_right_types_is_read_whole(tmp_path):
    path = write(tmp_path, '{"image_size": 64, "teacher": null, "more": [1]}')
    content = read_mapping(path, "model", image_size=Pixels, teacher=str | None)
    assert content == {"image_size": 64, "teacher": None, "more": [1]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1]", "expected fields with values"),
        ('{"image_size": 64', "Expecting"),
        ("{}", "field 'image_size' is missing"),
        ('{"image_size": "64"}', "image_size: Input should be a valid integer, got '64'"),
        ('{"image_size": 1000000}', "image_size: Input should be less than or equal to 4096"),
        ('{"image_size": NaN}', "image_size: "),
        ('{"image_size": 64, "image_size": 65}', "the key 'image_size' appears twice"),
        ("[" * 100_000, "maximum recursion depth|too deep|RecursionError"),
    ],
)
def test_a_damaged_file_is_named_with_its_problem(tmp_path, content, problem):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=f"^model: {path} cannot be used \\(.*({problem})"):
        read_mapping(path, "model", image_size=Pixels)


@pytest.mark.parametrize("name", ["missing.json", "pipe"])
def test_only_a_regular_file_is_opened(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"^model: .* cannot be used"):
        read_mapping(tmp_path / name, "model")


@dataclass
class Inner:
    size: Pixels
    names: list[str] | str


@dataclass
class Outer:
    inner: list[Inner]

    def __post_init__(self):
        if not self.inner:
            raise ValueError("inner: is empty.")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"inner": [{"size": 3, "names": "a"}, {"size": 0, "names": "a"}]}, "inner.1.size: Input"),
        ({"inner": [{"size": 3, "names": [5]}]}, "inner.0.names.0: Input should be a valid str"),
        ({"inner": []}, "inner: is empty."),
    ],
)
def test_the_error_names_the_field_inside(value, problem):
    with pytest.raises(ValueError) as refused:
        check_value(Outer, value)
    assert str(refused.value).startswith(problem)
