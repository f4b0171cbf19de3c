import json
from dataclasses import dataclass, field

import pytest

from training.utils.cli import command_of
from training.utils.results import Results, Row, make_meta

ROWS = [
    Row(
        model="teacher",
        set="unseen_style",
        protocol="class-names",
        language="zh",
        metric="top1",
        value=0.5,
        interval=(0.4, 0.6),
    ),
    Row(
        model="student",
        stage="aligned",
        set="unseen_style",
        protocol="class-names",
        language="zh",
        metric="top1",
        value=0.3,
        seed=0,
        interval=(0.2, 0.4),
    ),
    Row(
        model="student",
        stage="aligned",
        set="unseen_style",
        protocol="class-names",
        language="zh",
        metric="top1",
        value=0.4,
        seed=1,
        interval=(0.3, 0.5),
    ),
    Row(
        model="student",
        stage="aligned",
        set="unseen_style",
        protocol="class-names",
        language="en",
        metric="top1",
        value=0.35,
        seed=0,
        interval=(0.2, 0.5),
    ),
    Row(model="student", stage="aligned", metric="parameters", value=1234567, seed=0),
]


@pytest.fixture
def results() -> Results:
    return Results(make_meta(data="tiny", seed=0, extra="kept"), list(ROWS))


def test_file_keeps_its_contract(results, tmp_path):
    content = json.loads(results.write(tmp_path / "new").read_text(encoding="utf-8"))
    assert set(content) == {"meta", "rows"}
    assert {"command", "commit", "seed", "versions", "data", "date", "extra"} <= set(content["meta"])
    assert {"python", "torch", "transformers"} <= set(content["meta"]["versions"])
    for row in content["rows"]:
        assert {"model", "stage", "set", "protocol", "language", "metric", "value", "seed"} <= set(row)
    assert content["rows"][4]["language"] is None and content["rows"][0]["stage"] is None
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["results.json"]


def test_written_is_read(results, tmp_path):
    assert Results.read(results.write(tmp_path)) == results


def test_values_are_chosen_by_field_and_averaged_over_seeds(results):
    wanted = {"model": "student", "stage": "aligned", "language": "zh", "metric": "top1"}
    assert results.values(**wanted) == [0.3, 0.4]
    assert results.mean(**wanted) == pytest.approx(0.35)
    assert results.mean(model="nobody") is None
    assert results.values(language=None, metric="parameters") == [1234567]


def test_table_has_a_row_a_model_and_a_column_a_measurement(results):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in results.table().splitlines()]
    assert lines[0] == ["model", "unseen_style zh top1", "unseen_style en top1"]
    assert lines[2:] == [["teacher", "50.0", ""], ["student, aligned", "35.0", "35.0"]]


@dataclass(frozen=True, kw_only=True)
class Options:
    name: str
    flag: bool = False
    seeds: list[int] = field(default_factory=lambda: [0])
    steps: int = 80
    output_dir: str = "runs"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(name="x"), "python -m it --name x"),
        (Options(name="a b", flag=True, output_dir="elsewhere"), "python -m it --name 'a b' --flag"),
        (Options(name="x", seeds=[0, 1], steps=3), "python -m it --name x --seeds 0 1 --steps 3"),
    ],
)
def test_command_holds_what_differs_from_the_defaults(options, expected):
    assert command_of("python -m it", options) == expected
