"""What the loop does between its steps: scheduled evaluation and the best student."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModel, AutoProcessor

from tests.tiny import recipe_fields, student_config
from tests.training.engine.runs import read_log, run
from training.config import DistillRecipe, EvalConfig
from training.engine import stage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


@pytest.fixture
def recipe(tmp_path, corpus, teacher_folder) -> DistillRecipe:
    """Four steps with an evaluation every two."""
    fields = recipe_fields(tmp_path / "run", corpus / "train.parquet", max_steps=4, eval_every=2)
    labelled = EvalConfig(
        data=str(corpus / "unseen_style.parquet"), class_names=str(corpus / "class_names.json")
    )
    return DistillRecipe(
        teacher=str(teacher_folder), student=student_config(), eval=labelled, **fields
    )


def evaluations(folder: Path | str) -> list[dict]:
    return [line for line in read_log(folder) if line.get("event") == "evaluated"]


def test_scheduled_evaluation_is_logged_and_the_best_student_is_a_complete_folder(recipe, tmp_path):
    evaluated = evaluations(run(recipe))
    assert [line["step"] for line in evaluated] == [2, 4] and evaluated[0]["best"]
    for line in evaluated:
        assert line["top1"] == pytest.approx((line["top1_en"] + line["top1_zh"]) / 2, abs=1e-4)
        assert 0 <= line["top1"] <= line["top5"] <= 1
    best = Path(recipe.output_dir) / "best"
    assert AutoModel.from_pretrained(best) and AutoProcessor.from_pretrained(best)
    plain = run(
        replace(recipe, output_dir=str(tmp_path / "plain"), eval_every=0)
    )  # evaluation changes no training
    weights = [(folder / "model.safetensors").read_bytes() for folder in (plain, best.parent)]
    assert weights[0] == weights[1] and not (plain / "best").exists()


def test_a_run_ends_after_its_samples_and_says_how_many_epochs_they_are(recipe, train_rows, capfd):
    folder = run(replace(recipe, eval_every=0, max_steps=9, max_samples=20))
    started, *steps = read_log(folder)
    assert [line["step"] for line in steps if "loss" in line] == [1, 2, 3]
    epochs = round(24 / len(train_rows), 2)
    assert (started["samples"], started["epochs"]) == (24, epochs)
    assert f"3 steps of 8: 24 samples, {epochs} epochs" in capfd.readouterr().out


def test_the_best_student_is_kept_and_a_resumed_run_knows_its_metric(recipe, tmp_path, monkeypatch):
    values, kept = [0.1, 0.3, 0.2, 0.3], 2
    steps = iter(values)
    monkeypatch.setattr(
        stage, "make_evaluate", lambda *arguments: lambda model: {"top1": next(steps)}
    )
    folder = run(recipe := replace(recipe, eval_every=1, save_every=1, keep_checkpoints=9))
    best = (folder / "best/model.safetensors").read_bytes()
    assert best == (folder / f"checkpoint-{kept:06d}/model.safetensors").read_bytes()
    again = tmp_path / "again"
    again.mkdir()
    shutil.copytree(folder / "checkpoint-000002", again / "checkpoint-000002")
    # killed while the best student was replaced
    shutil.copytree(folder / "checkpoint-000002", again / ".best.dcclip-old")
    steps = iter(values[2:])
    run(replace(recipe, output_dir=str(again), resume=True))
    assert (again / "best/model.safetensors").read_bytes() == best
    assert [line["best"] for line in evaluations(again)] == [
        line["best"] for line in evaluations(folder)
    ][2:]
