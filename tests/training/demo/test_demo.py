"""The demo end to end, on a small corpus and with few steps; and with an AltCLIP teacher, in this process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState

from training.demo.__main__ import main
from training.demo.example import wrong_languages
from training.utils.output import recorded_names

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, dict]:
    """Folder and output of a run in a process of its own. Its corpus is in the cache of the session."""
    folder = tmp_path_factory.mktemp("demo")
    options = ["--output_dir", str(folder), "--every", "40", "--max_steps", "1", "--compare"]
    command = [sys.executable, "-m", "training.demo", *options]
    run = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return folder, results | {"stdout": run.stdout, "stderr": run.stderr}


def test_rows_have_every_stage_set_language_and_metric(demo):
    _, results = demo
    found = {(row["model"], row["stage"], row["set"], row["language"], row["metric"]) for row in results["rows"]}
    stages = [
        ("teacher", None),
        *(("student", stage) for stage in ("untrained", "distilled", "aligned", "no_teacher")),
    ]
    for model, stage in stages:
        for name in ("unseen_combination", "unseen_style"):
            for language in ("en", "zh"):
                assert {(model, stage, name, language, metric) for metric in ("top1", "top5")} <= found
        assert {
            (model, stage, None, None, metric) for metric in ("parameters", "bytes", "ms_per_image", "ms_per_text")
        } <= found
    assert {"command", "commit", "seed", "versions", "data"} <= set(results["meta"])


def test_cross_model_results_have_both_combinations_of_towers(demo):
    content = json.loads((demo[0] / "cross_model.json").read_text(encoding="utf-8"))
    found = {(row["model"], row["stage"]) for row in content["rows"]}
    models = ("student images, teacher texts", "teacher images, student texts")
    assert found == {(model, stage) for model in models for stage in ("distilled", "aligned")}


def test_student_has_at_most_a_sixth_of_the_teacher(demo):
    _, results = demo
    parameters = {row["model"]: row["value"] for row in results["rows"] if row["metric"] == "parameters"}
    assert 6 * parameters["student"] <= parameters["teacher"]


def test_output_has_a_hub_folder_figures_and_a_card_with_results(demo):
    folder, results = demo
    for name in (
        "config.json",
        "model.safetensors",
        "modeling_dcclip.py",
        "preprocessor_config.json",
        "recipe.yaml",
        "results.json",
        "example.png",
    ):
        assert (folder / "model" / name).is_file(), name
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "model-index" in card and "OpenMoji" in card and "Twemoji" in card
    for image in ("curves.png", "contact_sheet.png"):
        assert (folder / image).read_bytes().startswith(b"\x89PNG")
    assert "teacher" in results["stdout"] and "aligned" in results["stdout"]


def test_output_starts_with_the_plan_names_each_step_and_ends_with_the_next_commands(demo):
    folder, results = demo
    lines = results["stdout"].splitlines()
    assert lines[0].startswith("DC-CLIP demo: 6 steps")
    headings = [line.partition("] ")[2] for line in lines if line.startswith("[")]
    assert headings == [line.partition(". ")[2] for line in lines[1:7]]
    assert [line.split()[1] for line in lines[-3:]] == [
        "training/export.py",
        "training/eval.py",
        "training/publish.py",
    ]
    assert all(str(folder / "model") in line for line in lines[-3:])


def test_stderr_has_progress_bars_only(demo):
    lines = demo[1]["stderr"].replace("\r", "\n").splitlines()
    assert not [line for line in lines if line.strip() and not re.match(r"[\w :]+: +\d+%\|", line)]


def test_example_of_the_card_is_that_of_the_results(demo):
    folder, results = demo
    example = results["meta"]["example"]
    card = yaml.safe_load((folder / "model" / "card.yaml").read_text(encoding="utf-8"))
    assert card["image"] == example["image"]
    for language, labels in card["labels"].items():
        assert {entry["label"] for entry in example["answers"][language]} == set(labels)
    wrong = wrong_languages(example["answers"], card["labels"])
    assert ("the card's example is wrong in" in results["stdout"]) == bool(wrong)


def test_a_second_run_replaces_the_folders_of_the_first_and_no_others(demo, capsys, tmp_path):
    folder, _ = demo
    assert recorded_names(folder).keys() >= {"model", "distilled", "aligned", "results.json"}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("my own file")
    with pytest.raises(SystemExit) as stopped:
        main(["--output_dir", str(tmp_path)])
    assert stopped.value.code == 2
    assert "demo: output_dir: " in capsys.readouterr().err
    assert (tmp_path / "model" / "thesis.txt").exists()


def test_nothing_of_this_machine_is_in_the_hub_folder(demo):
    folder, _ = demo
    for path in (folder / "model").iterdir():
        if path.suffix in (".json", ".py", ".md") and path.name != "recipe.yaml":
            assert str(ROOT) not in path.read_text(encoding="utf-8"), path.name


def test_runs_with_altclip_as_teacher(tmp_path, altclip_folder):
    AcceleratorState._reset_state(reset_partial_state=True)
    options = ["--output_dir", str(tmp_path / "demo"), "--every", "40", "--max_steps", "1"]
    main([*options, "--teacher", str(altclip_folder)])
    results = json.loads((tmp_path / "demo" / "results.json").read_text(encoding="utf-8"))
    config = json.loads((tmp_path / "demo" / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["teacher"] == str(altclip_folder)
    assert config["teacher_license"] == "creativeml-openrail-m"
    log = (tmp_path / "demo" / "distilled" / "log.jsonl").read_text(encoding="utf-8")
    # the teacher has another tokenizer, so there is no text feature map to distil
    assert "text_embedding" in log and "text_map" not in log
    assert any(row["stage"] == "aligned" for row in results["rows"])
