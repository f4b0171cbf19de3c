"""Throughput of a recipe, beside a bare loop."""

import pytest

from tests.tiny import recipe_fields, save_untrained
from training import align
from training.config import AlignRecipe
from training.experiments import measure


@pytest.mark.usefixtures("fresh_accelerator")
def test_the_bare_loop_waits_for_its_device_before_and_after_all_steps(
    tmp_path, corpus, processor, monkeypatch
):
    waited = []
    monkeypatch.setattr(measure, "wait_for", waited.append)
    student = save_untrained(tmp_path / "student", processor)
    fields = recipe_fields(tmp_path / "run", corpus / "train.parquet", max_steps=3)
    found = measure.measure(align, AlignRecipe(student=student, **fields))
    assert len(waited) == 2
    assert found["share_of_bare_loop"] > 0
