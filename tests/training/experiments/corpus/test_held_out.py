"""Test sets of the embedded corpus."""

import pytest

from training.experiments.corpus import held_out
from training.experiments.corpus.held_out import HeldOut


@pytest.mark.slow
def test_held_out_images_are_classified_among_all_concepts(tmp_path, monkeypatch):
    monkeypatch.setattr(held_out, "DEFAULT_CACHE", str(tmp_path))
    found = HeldOut.open(every=200)
    assert found.corpus.parent == tmp_path
    assert [*found.sets] == ["unseen_combination", "unseen_style"]
    for name, labeled in found.sets.items():
        assert labeled.name == name and len(labeled.rows) > 0
        assert len(found.class_names.names["zh"]) > len(labeled.rows)
