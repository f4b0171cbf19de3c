"""The harness of all studies, and the budget of a tiny model."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.tiny import SMALL_XLM_ROBERTA, VIT, make_model
from training.experiments.studies import budget
from training.experiments.studies.__main__ import main
from training.experiments.studies.budget import Options, read_costs
from training.experiments.studies.harness import Study
from training.utils.results import RESULTS_FILE, Results, Row

ROW = Row(model="arm", metric="recall", value=0.25, seed=1)


def test_an_unknown_study_is_refused(refusal):
    assert "'nowhere'" in refusal(main, "nowhere")


def test_rows_of_other_settings_are_refused(tmp_path):
    Study("budget", Options(output_dir=str(tmp_path)), "noise", weights="a").add([ROW])
    with pytest.raises(ValueError, match="repeats: 32, now 3"):
        Study("budget", Options(output_dir=str(tmp_path), repeats=3), "noise", weights="a")


def test_the_budget_refuses_models_of_one_name(refusal):
    message = refusal(main, "budget", "--models", "one/aligned", "two/aligned")
    assert "models: several have the name 'aligned'" in message


def test_the_budget_refuses_a_folder_without_weights(refusal, tmp_path):
    message = refusal(main, "budget", "--models", str(tmp_path / "missing"))
    assert f"'{tmp_path}/missing/model.safetensors' does not exist" in message


def test_rows_of_other_weights_are_refused(tmp_path):
    options = Options(output_dir=str(tmp_path))
    study = Study("budget", options, "noise")
    study.check_weights("aligned", "a")
    study.add([replace(ROW, model="aligned")])
    again = Study("budget", options, "noise")
    again.check_weights("aligned", "a")
    again.check_weights("other", "b")
    with pytest.raises(ValueError, match="results of 'aligned' with other weights"):
        again.check_weights("aligned", "b")


@pytest.mark.slow
def test_the_budget_measures_a_student_once(processor, tmp_path, capsys, monkeypatch):
    # the graphs are written in this process, which has imported what it takes
    monkeypatch.setattr(
        budget, "ProcessPoolExecutor", lambda workers, context: ThreadPoolExecutor(workers)
    )
    small = make_model(VIT | {"num_hidden_layers": 1}, SMALL_XLM_ROBERTA)  # fast to trace
    small.save_pretrained(tmp_path / "small")
    processor.save_pretrained(tmp_path / "small")
    command = ["budget", "--models", str(tmp_path / "small"), "--backends", "onnx-fp32"]
    command += ["--repeats", "3", "--output_dir", str(tmp_path)]
    main(command)
    results = Results.read(tmp_path / RESULTS_FILE)
    costs = read_costs(results, "small", "onnx-fp32")
    assert all(costs.values())
    assert costs["peak_bytes"] < 200 * 2**20  # PyTorch alone takes more
    assert 0 < costs["cold_start_s"] < 60
    main(command)
    assert Results.read(tmp_path / RESULTS_FILE).rows == results.rows
    assert capsys.readouterr().out.count("| small | onnx-fp32, threads 1 |") == 2
