"""The harness of all studies, and the budget of a tiny model."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Image

from tests.tiny import SMALL_XLM_ROBERTA, VIT, make_model
from training.experiments.studies.__main__ import main
from training.experiments.studies.budget import costs
from training.experiments.studies.harness import Study, StudyOptions
from training.hub import WEIGHTS_FILE
from training.utils.results import RESULTS_FILE, Results, Row

ROW = Row(model="arm", metric="recall", value=0.25, seed=1)


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """Options of a study."""

    rate: float = 1.0


def test_an_unknown_study_is_refused(refusal):
    assert "'nowhere'" in refusal(main, "nowhere")


def test_rows_of_other_settings_are_refused(tmp_path):
    Study("claims", Options(output_dir=str(tmp_path)), "noise", weights="a").add([ROW])
    with pytest.raises(ValueError, match=r"rate: 1\.0, now 3"):
        Study("claims", Options(output_dir=str(tmp_path), rate=3.0), "noise", weights="a")


def test_the_budget_refuses_models_of_one_name(refusal, tmp_path):
    folders = [tmp_path / parent / "aligned" for parent in ("one", "two")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / WEIGHTS_FILE).touch()
    message = refusal(main, "budget", "--models", *map(str, folders))
    assert "models: several have the name 'aligned'" in message


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
    languages = {row.language for row in results.rows if row.metric == "ms_per_text_p50"}
    assert languages == {"en", "zh"} and all(row.value > 0 for row in results.rows)
    printed = capsys.readouterr().out
    sizes = {}
    for backend in ("onnx-fp32", "onnx-int8"):
        assert f"| small | {backend} | {' | '.join(costs(results, 'small', backend))} |" in printed
        sizes[backend] = results.mean(metric="bytes", protocol=backend)
    assert sizes["onnx-int8"] < sizes["onnx-fp32"]


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
