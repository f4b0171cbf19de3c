"""An evaluation set from outside, as CONTRIBUTING.md describes it: images with labels and a file of names."""

import json

import pytest

from training import eval as eval_script

pytestmark = pytest.mark.slow


def test_a_set_of_ones_own_needs_no_code(teacher_folder, corpus, tmp_path):
    names = tmp_path / "names.json"
    names.write_text((corpus / "class_names.json").read_text(encoding="utf-8"), encoding="utf-8")
    results = eval_script.main(
        [
            "--model", str(teacher_folder),
            "--data", f"mine={corpus / 'unseen_style.parquet'}",
            "--class_names", str(names),
            "--output_dir", str(tmp_path / "out"),
        ]
    )  # fmt: skip
    assert results.values(set="mine", language="en", metric="top1")
    assert results.values(set="mine", language="zh", metric="top1")
    assert json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["rows"]
