"""What the loop does between its steps: scheduled evaluation and the best student."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModel, AutoProcessor

from tests.tiny import recipe_fields, student_config
from training import distill
from training.config import DistillRecipe, EvalConfig
from training.engine import loop, stage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


@pytest.fixture
def recipe(tmp_path, corpus, teacher_folder) -> DistillRecipe:
    """Four steps with an evaluation every two."""
    fields = recipe_fields(tmp_path / "run", corpus / "train.parquet", max_steps=4, eval_every=2)
    labelled = EvalConfig(data=str(corpus / "unseen_style.parquet"), class_names=str(corpus / "class_names.json"))
    return DistillRecipe(teacher=str(teacher_folder), student=student_config(), eval=labelled, **fields)


def read_log(recipe: DistillRecipe) -> list[dict]:
    lines = (Path(recipe.output_dir) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def run_with(recipe: DistillRecipe, monkeypatch, measure):
    """Run a recipe with what its evaluation measures replaced."""
    train = loop.train

    def replaced(*arguments, evaluate, **keywords):
        return train(*arguments, evaluate=measure, **keywords)

    monkeypatch.setattr(stage, "train", replaced)
    try:
        distill.run(recipe)
    finally:
        monkeypatch.undo()


def test_scheduled_evaluation_is_logged_and_the_best_student_is_a_complete_folder(recipe, tmp_path):
    distill.run(recipe)
    evaluated = [line for line in read_log(recipe) if line.get("event") == "evaluated"]
    assert [line["step"] for line in evaluated] == [2, 4] and evaluated[0]["best"]
    for line in evaluated:
        assert line["top1"] == pytest.approx((line["top1_en"] + line["top1_zh"]) / 2, abs=1e-4)
        assert 0 <= line["top1"] <= line["top5"] <= 1
    best = Path(recipe.output_dir) / "best"
    assert AutoModel.from_pretrained(best) and AutoProcessor.from_pretrained(best)
    distill.run(replace(recipe, output_dir=str(tmp_path / "plain"), eval_every=0))  # evaluation changes no training
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "plain", best.parent)]
    assert weights[0] == weights[1] and not (tmp_path / "plain/best").exists()


def test_the_best_student_is_kept_and_a_resumed_run_knows_its_metric(recipe, tmp_path, monkeypatch):
    values, kept = [0.1, 0.3, 0.2, 0.3], 2
    recipe = replace(recipe, eval_every=1, save_every=1, keep_checkpoints=9)
    steps = iter(values)
    run_with(recipe, monkeypatch, measure=lambda model: {"top1": next(steps)})
    folder = Path(recipe.output_dir)
    best = (folder / "best/model.safetensors").read_bytes()
    assert best == (folder / f"checkpoint-{kept:06d}/model.safetensors").read_bytes()
    again = tmp_path / "again"
    again.mkdir()
    shutil.copytree(folder / "checkpoint-000002", again / "checkpoint-000002")
    # killed while the best student was replaced
    shutil.copytree(folder / "checkpoint-000002", again / ".best.dcclip-old")
    steps = iter(values[2:])
    resumed = replace(recipe, output_dir=str(again), resume=True)
    run_with(resumed, monkeypatch, measure=lambda model: {"top1": next(steps)})
    assert (again / "best/model.safetensors").read_bytes() == best
    flags = [line["best"] for line in read_log(resumed) if line.get("event") == "evaluated"]
    assert flags == [line["best"] for line in read_log(recipe) if line.get("event") == "evaluated"][2:]
