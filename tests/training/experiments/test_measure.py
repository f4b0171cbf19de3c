"""Throughput of a recipe, beside a bare loop."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from tests.tiny import recipe_fields, save_untrained
from training.config import AlignRecipe
from training.experiments import measure


@pytest.mark.usefixtures("fresh_accelerator")
def test_each_figure_is_a_rate(tmp_path, corpus, processor, monkeypatch, capsys):
    """With 3 steps of the bare loop in 2 s, and 8e12 operations in a step."""
    fields = recipe_fields(tmp_path / "run", corpus / "train.parquet", max_steps=3)
    recipe = AlignRecipe(student=save_untrained(tmp_path / "student", processor), **fields)
    clock = SimpleNamespace(perf_counter=iter([5.0, 7.0]).__next__)
    counter = nullcontext(SimpleNamespace(get_total_flops=lambda: 8e12))
    result = SimpleNamespace(images_per_s=6.0, data_wait=0.25)
    waited: list[object] = []  # for the device, before and after all steps
    monkeypatch.setattr(measure, "wait_for", waited.append)
    monkeypatch.setattr(measure, "time", clock)
    monkeypatch.setattr(measure, "FlopCounterMode", lambda display: counter)
    monkeypatch.setattr(measure, "train", lambda *_: result)
    monkeypatch.setattr(measure, "parse_recipe", lambda *_: recipe)
    measure.main(["align", "--peak_tflops", "100"])
    assert len(waited) == 2
    size = recipe.batch_size
    expected = {
        "images_per_s": 6.0,
        "share_of_bare_loop": 6 / (3 * size / 2),
        "data_wait": 0.25,
        "tflop_per_s": 8 / size * 6,
        "mfu": 8 / size * 6 / 100,
    }
    assert json.loads(capsys.readouterr().out) == pytest.approx(expected, rel=0.01)
