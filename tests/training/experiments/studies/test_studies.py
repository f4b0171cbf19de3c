"""The harness of all studies, and the budget of a tiny model."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Image

from tests.tiny import SMALL_XLM_ROBERTA, VIT, make_model
from training.experiments.studies import budget
from training.experiments.studies.__main__ import main
from training.experiments.studies.budget import Options, read_costs
from training.experiments.studies.harness import Study, mean_and_spread
from training.utils.results import RESULTS_FILE, Results, Row

ROW = Row(model="arm", metric="recall", value=0.25, seed=1)


def test_an_unknown_study_is_refused(refusal):
    assert "'nowhere'" in refusal(main, "nowhere")


def test_a_spread_is_the_deviation_of_a_sample():
    assert mean_and_spread([0.1, 0.2, 0.3]) == "20.0 ± 10.0"
    assert mean_and_spread([0.5]) == "50.0"
    assert mean_and_spread([]) == "-"


def test_rows_outlive_a_call(tmp_path):
    options = Options(output_dir=str(tmp_path))
    Study("budget", options, "noise", weights="a").add([ROW])
    again = Study("budget", options, "noise", weights="a")
    assert again.has(seed=1, metric="recall") and not again.has(seed=2)


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


@pytest.mark.slow
def test_a_small_collection_in_lance_is_scanned(train_rows, color_model, tmp_path, capsys):
    pytest.importorskip("lance", reason='pip install -e ".[lance]"')
    undecoded = train_rows.select(range(40)).cast_column("image", Image(decode=False))
    for split in ("train", "validation"):
        columns = {"image": [cell["bytes"] for cell in undecoded["image"]]}
        columns |= {language: [[text] for text in undecoded[language]] for language in ("en", "zh")}
        pq.write_table(pa.table(columns), tmp_path / f"photos_emoji_{split}.parquet")
    command = ["lance", "--photos", str(tmp_path), "--model", str(color_model), "--queries", "4"]
    main([*command, "--sizes", "9000", "--output_dir", str(tmp_path / "out")])
    assert (tmp_path / "out" / "results.png").exists()
    results = Results.read(tmp_path / "out" / RESULTS_FILE)
    # so few vectors are scanned, but Lance rounds the last digits of similar ones
    assert min(results.values(metric="recall")) >= 0.9
    assert results.mean(metric="bytes_per_vector") > 2 * 16
    assert "| Vectors | 9,000 |" in capsys.readouterr().out
