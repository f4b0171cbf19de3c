"""The comparison with rclip, with a program in its place."""

import pytest

from tests.modeling.color_model import save_color_model
from training.studies.search import measure_rclip
from training.studies.search.rclip import main
from training.utils.results import Results

PROGRAM = """#!/bin/sh
[ "$1" = --version ] && echo rclip 9.9 && exit
test -f "$RCLIP_DATADIR/model" && find "$PWD" -name '*.jpg' | head -10
"""


def write_model(folder):
    folder.mkdir()
    (folder / "model").touch()
    (folder / measure_rclip.FOLDER).mkdir()
    (folder / measure_rclip.FOLDER / "visual.onnx").write_bytes(b"x" * 2_000_000)


@pytest.mark.slow
def test_both_programs_index_and_answer(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure_rclip, "write_random_model", write_model)
    program = tmp_path / "rclip"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    fields = {"rclip": program, "model": save_color_model(tmp_path / "model"), "data": corpus / "train.parquet"}
    fields |= {"num_images": 12, "width": 64, "rounds": 1, "output_dir": tmp_path / "results"}
    main([word for name, value in fields.items() for word in (f"--{name}", str(value))])
    results = Results.read(tmp_path / "results" / "results.json")
    rows = {(row.model, row.metric): row.value for row in results.rows}
    assert results.meta["rclip"] == "9.9" and rows["rclip", "model_bytes"] == 2_000_000
    assert rows["dcclip", "images_per_s"] > 0 and 0 < rows["rclip", "query_s"] < 10
    assert "| rclip | " in capsys.readouterr().out


def test_a_missing_program_is_one_line(corpus, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--rclip", str(tmp_path / "no"), "--model", str(tmp_path), "--data", str(corpus / "train.parquet")])
    assert stopped.value.code == 2 and "Install rclip in an environment of its own" in capsys.readouterr().err
