from dataclasses import replace
from typing import Any

import pytest

from training.utils.results import Results, Row, aligned, make_meta

DAMAGED = (
    b"", b"{", b"[]", b"\xff", b'{"meta": {}}', b'{"meta": 5, "rows": []}', b'{"meta": {}, "rows": [5]}',
    b'{"meta": {}, "rows": [{"model": "a", "metric": "b", "value": "c"}]}',
    b'{"meta": {}, "rows": [{"model": "a", "metric": "b", "value": 1, "interval": ["a", "b"]}]}',
    b'{"meta": {}, "rows": [{"model": "a", "metric": "b", "value": 1, "other": 2}]}',
    b'{"meta": {}, "rows": [{"model": null, "metric": "b", "value": 1}]}', b"[" * 100_000,
)  # fmt: skip
UNSEEN: dict[str, Any] = {"set": "unseen_style", "protocol": "class-names", "metric": "top1"}
STUDENT: dict[str, Any] = {"model": "student", "stage": "aligned", "interval": (0.2, 0.5)}
ROWS = [
    Row(model="teacher", language="zh", value=0.5, interval=(0.4, 0.6), **UNSEEN),
    Row(language="zh", value=0.3, seed=0, **STUDENT, **UNSEEN),
    Row(language="zh", value=0.4, seed=1, **STUDENT, **UNSEEN),
    Row(language="en", value=0.35, seed=0, **STUDENT, **UNSEEN),
    Row(model="student", stage="aligned", metric="parameters", value=1234567, seed=0),
]


@pytest.fixture
def results() -> Results:
    return Results(make_meta(data="tiny", seed=0, command="python it.py", extra="kept"), list(ROWS))


def test_read_returns_what_was_written(results, tmp_path):
    assert Results.read(results.write(tmp_path)) == results


def test_a_file_has_no_absolute_path(results, tmp_path):
    results.meta["command"] = "python it.py --model /home/me/models/one"
    results.rows = [replace(ROWS[0], model=f"/home/me/{name}/model") for name in ("one", "two")]
    found = Results.read(results.write(tmp_path))
    assert found.meta["command"] == "python it.py --model one"
    assert [row.model for row in found.rows] == ["one/model", "two/model"]


def test_values_are_selected_by_field_and_averaged_over_seeds(results):
    fields = {"model": "student", "stage": "aligned", "language": "zh", "metric": "top1"}
    assert results.values(**fields) == [0.3, 0.4]
    assert results.mean(**fields) == pytest.approx(0.35)
    assert results.mean(model="nobody") is None
    assert results.values(language=None, metric="parameters") == [1234567]


def test_table_has_a_row_for_each_model_and_a_column_for_each_metric(results):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in results.table().splitlines()]
    assert lines[0] == ["model", "unseen_style zh top1", "unseen_style en top1"]
    assert lines[2:] == [["teacher", "50.0", ""], ["student, aligned", "35.0", "35.0"]]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_refused_by_name(tmp_path, content):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"^results\.json: "):
        Results.read(tmp_path / "results.json")


def test_a_terminal_shows_a_table_in_columns():
    text = "Before:\n\n| model | top1 |\n| --- | ---: |\n| teacher | 5.0 |\n| student, aligned |  |\n\nAfter."
    lines = ["model             top1", "----------------  ----", "teacher            5.0", "student, aligned"]
    assert aligned(text) == "\n".join(["Before:", "", *lines, "", "After."])
