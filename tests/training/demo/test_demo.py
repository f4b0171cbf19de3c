"""The one command, end to end, on a thinned corpus and with few steps; and with a teacher of the paper's own class."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run_demo(cache: Path, output_dir: Path, *arguments: str) -> dict:
    command = [
        sys.executable,
        "-m",
        "training.demo",
        "--output_dir",
        str(output_dir),
        "--every",
        "40",
        "--max_steps",
        "2",
        *arguments,
    ]
    environment = os.environ | {"DCCLIP_CACHE": str(cache), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads((output_dir / "results.json").read_text(encoding="utf-8")) | {"printed": run.stdout}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def demo(cache, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, run_demo(cache, folder, "--compare")


def test_rows_hold_every_stage_set_language_and_metric(demo):
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


def test_student_and_teacher_are_measured_as_each_others_half(demo):
    content = json.loads((demo[0] / "cross_model.json").read_text(encoding="utf-8"))
    found = {(row["model"], row["stage"]) for row in content["rows"]}
    halves = ("student images, teacher texts", "teacher images, student texts")
    assert found == {(model, stage) for model in halves for stage in ("distilled", "aligned")}


def test_student_has_at_most_a_sixth_of_the_teacher(demo):
    _, results = demo
    parameters = {row["model"]: row["value"] for row in results["rows"] if row["metric"] == "parameters"}
    assert 6 * parameters["student"] <= parameters["teacher"]


def test_leaves_a_hub_folder_the_images_and_a_card_with_results(demo):
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
    assert "teacher" in results["printed"] and "aligned" in results["printed"]


def test_nothing_of_this_machine_stands_in_the_hub_folder(demo):
    folder, _ = demo
    for path in (folder / "model").iterdir():
        if path.suffix in (".json", ".py", ".md") and path.name != "recipe.yaml":
            assert str(ROOT) not in path.read_text(encoding="utf-8"), path.name


def test_runs_with_altclip_as_teacher(cache, tmp_path, altclip_folder):
    results = run_demo(cache, tmp_path / "demo", "--teacher", str(altclip_folder))
    config = json.loads((tmp_path / "demo" / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["teacher"] == str(altclip_folder)
    assert config["teacher_license"] == "creativeml-openrail-m"
    log = (tmp_path / "demo" / "distilled" / "log.jsonl").read_text(encoding="utf-8")
    # the teacher reads other tokens, so there is no text map to learn
    assert "text_embedding" in log and "text_map" not in log
    assert any(row["stage"] == "aligned" for row in results["rows"])
