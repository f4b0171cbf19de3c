"""Options of the loop that both stages share: precision, compilation, trackers."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from tests.tiny import RESNET, VIT, XLM_ROBERTA, make_model, recipe_fields
from tests.training.engine.runs import losses, run
from training.config import AlignRecipe, EvalConfig
from training.engine import stage
from training.engine.device import make_accelerator
from training.engine.log import require_trackers
from training.engine.optimizer import make_optimizer
from training.engine.state import Progress, TrainingState

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


@pytest.fixture
def recipe(tmp_path, corpus, processor) -> AlignRecipe:
    """Stage 2 without a teacher, of a student with dropout."""
    make_model(RESNET, XLM_ROBERTA, seed=3).save_pretrained(tmp_path / "student")
    processor.save_pretrained(tmp_path / "student")
    fields = recipe_fields(tmp_path / "run", corpus / "train.parquet", max_steps=3)
    return AlignRecipe(student=str(tmp_path / "student"), **fields)


def test_the_gradient_scale_of_fp16_is_restored(recipe, tmp_path):
    task = torch.nn.Linear(2, 2)
    found = []
    for _ in range(2):
        accelerator = Accelerator(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # as with fp16
        found.append(TrainingState(task, make_optimizer(task, recipe), None, accelerator, {}))
    first, second = found
    first.accelerator.scaler.load_state_dict(
        first.accelerator.scaler.state_dict() | {"scale": 64.0}
    )
    first.accelerator.scaler.scale(torch.ones(1))
    first.save(tmp_path / "checkpoint/training_state", Progress(step=5))
    assert second.load(tmp_path / "checkpoint") == Progress(step=5)
    assert second.accelerator.scaler.get_scale() == 64.0


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
    plain, other = (
        run(recipe),
        run(replace(recipe, torch_compile=True, output_dir=str(tmp_path / "compiled"))),
    )
    assert len(compiled) == 2 and losses(other) == pytest.approx(losses(plain), abs=1e-4)
    assert (
        load_file(plain / "model.safetensors").keys()
        == load_file(other / "model.safetensors").keys()
    )


def test_a_tracker_logs_the_losses_of_the_log_file(recipe, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(stage, "make_evaluate", lambda *arguments: lambda model: {"top1": 0.25})
    labelled = EvalConfig(data="validation", class_names="names")
    folder = run(replace(recipe, trackers=["tensorboard"], eval_every=3, eval=labelled))
    (file,) = (folder / "tracking").rglob("events.out.tfevents.*.0")
    accumulator = events.EventAccumulator(str(file)).Reload()
    assert [event.value for event in accumulator.Scalars("loss")] == pytest.approx(losses(folder))
    assert [(event.step, event.value) for event in accumulator.Scalars("eval/top1")] == [(3, 0.25)]


def test_a_tracker_that_is_not_installed_is_refused(recipe, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"trackers: 'wandb' is not installed\. Run: pip install wandb"
    ):
        require_trackers(["wandb"])
    monkeypatch.undo()
    assert make_accelerator(recipe).log_with == []
