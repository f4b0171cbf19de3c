"""What the loop does between its steps: log, trackers, scheduled evaluation and the best student."""

import filecmp
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from tests.tiny import VIT, recipe_fields, save_untrained
from tests.training.engine.runs import losses, read_log, run
from training.config import AlignRecipe, EvalConfig
from training.engine import stage
from training.engine.stage import make_accelerator

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


@pytest.fixture
def recipe(tmp_path, corpus, processor) -> AlignRecipe:
    """Four steps of stage 2 with an evaluation every two."""
    fields = recipe_fields(tmp_path / "run", corpus / "train.parquet", max_steps=4, eval_every=2)
    labeled = EvalConfig(
        data=str(corpus / "unseen_style.parquet"), class_names=str(corpus / "class_names.json")
    )
    student = save_untrained(tmp_path / "student", processor, VIT)
    return AlignRecipe(student=student, eval=labeled, **fields)


def evaluations(folder: Path | str) -> list[dict]:
    return [line for line in read_log(folder) if line.get("event") == "evaluated"]


def test_scheduled_evaluation_is_logged_and_the_best_student_is_a_complete_folder(recipe, tmp_path):
    evaluated = evaluations(run(recipe))
    assert [line["step"] for line in evaluated] == [2, 4] and evaluated[0]["best"]
    assert all(0 <= line["top1"] <= line["top5"] <= 1 for line in evaluated)
    best = Path(recipe.output_dir) / "best"
    assert AutoModel.from_pretrained(best) and AutoProcessor.from_pretrained(best)
    plain = run(replace(recipe, output_dir=str(tmp_path / "plain"), eval_every=0))
    # evaluation changes no training
    assert filecmp.cmp(plain / "model.safetensors", best.parent / "model.safetensors", False)
    assert not (plain / "best").exists()


def test_a_run_ends_after_its_samples_and_says_how_many_epochs_they_are(recipe, train_rows, capfd):
    folder = run(replace(recipe, eval_every=0, max_steps=9, max_samples=20))
    assert len(losses(folder)) == 3
    started, epochs = read_log(folder)[0], round(24 / len(train_rows), 2)
    assert (started["samples"], started["epochs"]) == (24, epochs)
    assert f"3 steps of 8: 24 samples, {epochs} epochs" in capfd.readouterr().out


def test_the_best_student_is_kept_and_a_resumed_run_knows_its_metric(recipe, tmp_path, monkeypatch):
    values = iter([0.3, 0.30001, 0.2, 0.30001, 0.2, 0.30001])
    monkeypatch.setattr(stage, "make_evaluate", lambda *_: lambda model: {"top1": next(values)})
    folder = run(recipe := replace(recipe, eval_every=1, save_every=1, keep_checkpoints=9))
    best = (folder / "best/model.safetensors").read_bytes()
    assert best == (folder / "checkpoint-000002/model.safetensors").read_bytes()
    again = tmp_path / "again"
    # killed while the best student was replaced
    for name in ("checkpoint-000002", ".best.dcclip-old"):
        shutil.copytree(folder / "checkpoint-000002", again / name)
    run(replace(recipe, output_dir=str(again), resume=True))
    assert (again / "best/model.safetensors").read_bytes() == best
    assert [line["best"] for line in evaluations(folder)] == [True, True, False, False]
    assert [line["best"] for line in evaluations(again)] == [False, False]


@pytest.mark.stress
def test_compiled_towers_have_the_same_losses(recipe, tmp_path, monkeypatch):
    recipe = replace(recipe, max_steps=1, eval_every=0)
    compiled = []
    compile_module = torch.nn.Module.compile

    def trace_only(module):  # without building kernels, which takes minutes
        compiled.append(module)
        compile_module(module, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", trace_only)
    plain = run(recipe)
    other = run(replace(recipe, torch_compile=True, output_dir=str(tmp_path / "compiled")))
    assert len(compiled) == 2 and losses(other) == pytest.approx(losses(plain), abs=1e-4)
    AutoModel.from_pretrained(other)


def test_a_tracker_logs_the_losses_of_the_log_file(recipe, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(stage, "make_evaluate", lambda *_: lambda model: {"top1": 0.25})
    folder = run(replace(recipe, trackers=["tensorboard"], eval_every=4))
    (file,) = (folder / "tracking").rglob("events.out.tfevents.*.0")
    accumulator = events.EventAccumulator(str(file)).Reload()
    assert [event.value for event in accumulator.Scalars("loss")] == pytest.approx(losses(folder))
    assert [(event.step, event.value) for event in accumulator.Scalars("eval/top1")] == [(4, 0.25)]


def test_a_tracker_that_is_not_installed_is_refused(recipe, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"trackers: 'wandb' is not installed\. Run: pip install"):
        make_accelerator(replace(recipe, trackers=["wandb"]))
