"""The command of all studies, and the budget of a tiny model."""

import pytest

from tests.tiny import SMALL_XLM_ROBERTA, VIT, make_model
from training.experiments.studies.__main__ import main
from training.experiments.studies.budget import costs
from training.utils.results import RESULTS_FILE, Results


def test_an_unknown_study_is_refused(refusal):
    assert "'nowhere'" in refusal(main, "nowhere")


def test_the_budget_refuses_a_folder_without_weights(refusal, tmp_path):
    message = refusal(main, "budget", "--models", str(tmp_path / "missing"))
    assert f"'{tmp_path}/missing/model.safetensors' does not exist" in message


@pytest.mark.slow
def test_the_budget_measures_a_student(processor, tmp_path, capsys):
    small = make_model(VIT | {"num_hidden_layers": 1}, SMALL_XLM_ROBERTA)  # fast to trace
    small.save_pretrained(tmp_path / "small")
    processor.save_pretrained(tmp_path / "small")
    command = ["budget", "--models", str(tmp_path / "small"), "--repeats", "3"]
    main([*command, "--output_dir", str(tmp_path)])
    results = Results.read(tmp_path / RESULTS_FILE)
    assert {row.metric for row in results.rows} >= {"ms_per_image_p50", "ms_per_text_p50"}
    assert all(row.value > 0 for row in results.rows)
    weights = 4 * results.mean(metric="parameters")
    assert results.mean(metric="bytes", protocol="onnx-int8") < weights
    assert (
        f"small | {' | '.join(costs(results, results.rows[0].model))} |" in capsys.readouterr().out
    )
