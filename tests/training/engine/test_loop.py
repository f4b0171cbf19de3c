"""Options of the loop that both stages share: accumulation, moving average, precision, compilation, trackers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from tests.tiny import RESNET, VIT, XLM_ROBERTA, make_model, recipe_fields
from training import align
from training.config import AlignRecipe, EvalConfig
from training.engine import stage
from training.engine.log import require_trackers
from training.engine.loop import make_accelerator
from training.engine.optimizer import make_optimizer
from training.engine.state import Progress, TrainingState

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]

VALIDATION = EvalConfig(data="validation", class_names="names")  # replaced by a function in the tests


@pytest.fixture
def recipe(tmp_path, corpus, processor) -> AlignRecipe:
    """Stage 2 without a teacher, of a student with dropout."""
    make_model(RESNET, XLM_ROBERTA, seed=3).save_pretrained(tmp_path / "student")
    processor.save_pretrained(tmp_path / "student")
    fields = recipe_fields(tmp_path / "run", corpus / "train.parquet", max_steps=3, keep_checkpoints=9)
    return AlignRecipe(student=str(tmp_path / "student"), **fields)


def run(recipe: AlignRecipe) -> list[dict]:
    AcceleratorState._reset_state(reset_partial_state=True)
    align.run(recipe)
    lines = (Path(recipe.output_dir) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


def weights(recipe: AlignRecipe, folder: str = "") -> dict[str, torch.Tensor]:
    return load_file(Path(recipe.output_dir) / folder / "model.safetensors")


def resumed(recipe: AlignRecipe, tmp_path: Path, step: int = 1) -> tuple[AlignRecipe, list[dict]]:
    """Resume a run from one of its checkpoints, in another folder."""
    again = tmp_path / "again"
    again.mkdir()
    name = f"checkpoint-{step:06d}"
    (Path(recipe.output_dir) / name).rename(again / name)
    recipe = replace(recipe, output_dir=str(again), resume=True)
    return recipe, run(recipe)


# moving average


def test_the_average_is_exported_and_resumes_bit_exactly_with_the_weights(recipe, tmp_path):
    plain = replace(recipe, output_dir=str(tmp_path / "plain"))
    run(plain)
    recipe = replace(recipe, ema_decay=0.5, save_every=1)
    whole = run(recipe)
    # training is the same as without an average; only the exported weights differ
    state = load_file(Path(recipe.output_dir) / "checkpoint-000003/training_state/tensors.safetensors")
    for name, tensor in weights(plain).items():
        if f"task/student.{name}" in state:
            assert torch.equal(state[f"task/student.{name}"], tensor), name
    exported = weights(recipe)
    assert not torch.equal(exported["logit_scale"], weights(plain)["logit_scale"])
    again, log = resumed(recipe, tmp_path)
    assert [line["loss"] for line in log] == [line["loss"] for line in whole[1:]]
    assert all(torch.equal(exported[name], tensor) for name, tensor in weights(again).items())


def test_evaluation_measures_the_average(recipe, monkeypatch):
    logit_scales = []

    def evaluate(model) -> dict[str, float]:
        assert not model.training
        logit_scales.append(model.logit_scale.item())
        return {"top1": 0.5}

    monkeypatch.setattr(stage, "make_evaluate", lambda *arguments: evaluate)
    recipe = replace(recipe, ema_decay=0.5, eval_every=3, eval=VALIDATION)
    run(recipe)
    assert logit_scales == [weights(recipe)["logit_scale"].item()]


# precision


def test_the_gradient_scale_of_fp16_is_restored(recipe, tmp_path):
    task = torch.nn.Linear(2, 2)
    found = []
    for _ in range(2):
        accelerator = Accelerator(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # as with fp16
        found.append(TrainingState(task, make_optimizer(task, recipe), None, accelerator, {}))
    first, second = found
    first.accelerator.scaler.load_state_dict(first.accelerator.scaler.state_dict() | {"scale": 64.0})
    first.accelerator.scaler.scale(torch.ones(1))
    first.save(tmp_path / "checkpoint/training_state", Progress(step=5))
    assert second.load(tmp_path / "checkpoint") == Progress(step=5)
    assert second.accelerator.scaler.get_scale() == 64.0


# compilation


@pytest.mark.stress
def test_compiled_towers_have_the_same_losses(recipe, tmp_path, monkeypatch):
    make_model(VIT, XLM_ROBERTA, seed=3).save_pretrained(tmp_path / "student")  # fast to trace
    recipe = replace(recipe, max_steps=1)
    compiled = []
    compile_module = torch.nn.Module.compile

    def trace_only(module):  # without building kernels, which takes minutes
        compiled.append(type(module).__name__)
        compile_module(module, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", trace_only)
    plain, other = run(recipe), run(replace(recipe, torch_compile=True, output_dir=str(tmp_path / "compiled")))
    assert len(compiled) == 2
    for line, expected in zip(other, plain, strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    assert weights(recipe).keys() == load_file(tmp_path / "compiled/model.safetensors").keys()


# trackers


def test_a_tracker_logs_the_losses_of_the_log_file(recipe, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(stage, "make_evaluate", lambda *arguments: lambda model: {"top1": 0.25})
    recipe = replace(recipe, trackers=["tensorboard"], eval_every=3, eval=VALIDATION)
    log = run(recipe)
    (file,) = (Path(recipe.output_dir) / "tracking").rglob("events.out.tfevents.*.0")
    accumulator = events.EventAccumulator(str(file)).Reload()
    assert [event.value for event in accumulator.Scalars("loss")] == pytest.approx([line["loss"] for line in log])
    assert [(event.step, event.value) for event in accumulator.Scalars("eval/top1")] == [(3, 0.25)]


def test_a_tracker_that_is_not_installed_is_refused(recipe, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"trackers: 'wandb' is not installed\. Run: pip install wandb"):
        require_trackers(["wandb"])
    monkeypatch.undo()
    assert make_accelerator(recipe).log_with == []
