from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from matplotlib.figure import Figure
from PIL import Image

from training.utils.results import Results, Row, make_meta

DAMAGED = (
    "",
    '{"meta": {}, "rows": [5]}',
    '{"meta": {}, "rows": [{"model": "a", "metric": "b", "value": "c"}]}',
)
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
    models = ("/home/me/one/model", "/home/me/two/model", "/home/me/three images, a/four texts")
    results.meta["models"] = [{"name": name} for name in models[:2]]
    results.rows = [replace(ROWS[0], model=name) for name in models]
    found = Results.read(results.write(tmp_path))
    assert found.meta["command"] == "python it.py --model one"
    assert found.meta["models"] == [{"name": "one/model"}, {"name": "two/model"}]
    assert [row.model for row in found.rows] == [
        "one/model",
        "two/model",
        "me/three images, a/four texts",
    ]


def test_values_are_selected_by_field_and_averaged_over_seeds(results):
    fields = {"model": "student", "stage": "aligned", "language": "zh", "metric": "top1"}
    assert results.values(**fields) == [0.3, 0.4]
    assert results.mean(**fields) == pytest.approx(0.35)
    assert results.mean(model="nobody") is None


def test_table_has_a_row_for_each_model_and_a_column_for_each_metric(results):
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in results.table().splitlines()
    ]
    assert lines[0] == ["model", "unseen_style zh top1", "unseen_style en top1"]
    assert lines[2:] == [["teacher", "50.0", ""], ["student, aligned", "35.0", "35.0"]]


def test_the_plot_has_a_panel_for_each_model_and_a_point_for_each_row(
    results, tmp_path, monkeypatch
):
    results.rows += [replace(ROWS[0], model="/home/me/teacher", set="雪景", interval=None)]
    figures, save = [], Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any):
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    with Image.open(results.plot(tmp_path)) as image:
        assert image.format == "PNG" and min(image.size) > 200
    panels = figures[0].axes
    assert [panel.get_title() for panel in panels] == ["teacher", "student, aligned", "me/teacher"]
    ticks = [label.get_text() for label in panels[0].get_yticklabels()]
    assert ticks == ["unseen style, top1", "雪景, top1"]
    points = {line.get_label(): line[0].get_xydata().tolist() for line in panels[1].containers}
    assert points == {"zh": [[30.0, 0.0], [40.0, 0.0]], "en": [[35.0, 0.2]]}


def test_a_marker_at_the_border_of_the_plot_is_drawn_in_full(tmp_path):
    rows = [
        Row(model="student", language="zh", value=0.0, **UNSEEN),
        Row(model="student", language="en", value=0.5, **UNSEEN),
    ]
    with Image.open(Results({}, rows).plot(tmp_path)) as image:
        pixels = np.asarray(image.convert("RGB"))
    border = (pixels == (31, 119, 180)).all(-1).sum()
    inside = (pixels == (255, 127, 14)).all(-1).sum()
    assert inside > 0
    assert border == pytest.approx(inside, rel=0.1)


def test_runs_in_different_precision_have_different_meta(monkeypatch):
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    assert "mixed_precision" not in make_meta("tiny", 0)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert make_meta("tiny", 0)["mixed_precision"] == "fp16"
    Accelerator(cpu=True, mixed_precision="bf16")
    assert make_meta("tiny", 0)["mixed_precision"] == "bf16"


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_refused_by_name(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"^results\.json[:.]"):
        Results.read(tmp_path / "results.json")
