"""An index that grows, in processes of its own."""

import pytest

from tests.modeling.color_model import save_color_model
from training.studies.search.child import run
from training.studies.search.growth import main
from training.utils.results import Results


@pytest.mark.slow
def test_each_step_indexes_what_is_new_and_searches_it(corpus, tmp_path, capsys):
    out = tmp_path / "results"
    arguments = ["--model", str(save_color_model(tmp_path / "model")), "--data", str(corpus / "train.parquet")]
    main(
        [
            *arguments,
            "--counts",
            "4",
            "9",
            "--embedded",
            "4",
            "--width",
            "64",
            "--rounds",
            "1",
            "--output_dir",
            str(out),
        ]
    )
    rows = {(row.set, row.metric): row.value for row in Results.read(out / "results.json").rows}
    for size in ("4 files", "9 files"):
        assert 20e6 < rows[size, "search_peak_bytes"] < 400e6 and 20e6 < rows[size, "index_peak_bytes"] < 400e6
        assert 0 < rows[size, "first_answer_s"] < 60 and 0 < rows[size, "unchanged_s"] < 60
        assert 0 < rows[size, "first_answer_cpu_s"] < 20 and 0 < rows[size, "unchanged_cpu_s"] < 20
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in table[2:]] == ["| 4", "| 9"]
    assert not (out / ".growth").exists()


def test_numbers_that_do_not_grow_are_one_line(corpus, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--model", str(tmp_path), "--data", str(corpus / "train.parquet"), "--counts", "5", "3"])
    assert stopped.value.code == 2 and "counts: got [5, 3], expected growing numbers" in capsys.readouterr().err


def test_a_command_that_fails_is_reported_with_its_message():
    with pytest.raises(RuntimeError, match=r"ended with code 3: no luck"):
        run(["sh", "-c", "echo no luck >&2; exit 3"])
