"""Optimizer, schedule and moving average, and what the loop does with them in each step.

The task of these tests has one trained matrix and a gradient that a plain loop knows.
"""

import json
import math
import os
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import debug_launcher
from safetensors.torch import load_file
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from tests.tiny import IMAGE_SIZE, NO_DROPOUT, VIT, make_model, recipe_fields
from tests.training.engine.runs import losses
from tests.training.tasks.hand_made import NORMALIZE, augment
from tests.variants import ignored_fields
from training.config import AlignRecipe, EvalConfig
from training.data import CaptionTokenizer, PairDataset
from training.data.batch import Batch
from training.engine import checkpoint
from training.engine.checkpoint import run_identity
from training.engine.log import Log
from training.engine.loop import (
    Evaluate,
    Run,
    TrainingState,
    freeze_unreached,
    keep_depthwise_in_float32,
    learning_rate_at,
    make_optimizer,
    train,
)
from training.engine.stage import make_accelerator
from training.tasks import Task

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def make_recipe(folder: Path, **fields: Any) -> AlignRecipe:
    fields = {"student": "s", "max_grad_norm": 1e9, "max_steps": 3, "batch_size": 4} | fields
    return AlignRecipe(**recipe_fields(folder, "rows", **fields))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux names open files there")
def test_a_model_is_on_the_disk_before_and_after_it_takes_its_place(tmp_path, monkeypatch):
    synced = []

    def sync(file):
        synced.append((Path(os.readlink(f"/proc/self/fd/{file}")), (tmp_path / "a").exists()))

    monkeypatch.setattr(os, "fsync", sync)
    files = ("a", "model.safetensors")
    checkpoint.save_final(tmp_path, lambda folder: [(folder / name).touch() for name in files])
    *scratch, last = synced
    assert {path.name for path, _ in scratch} >= {*files}
    assert not any(is_placed for _, is_placed in scratch) and last == (tmp_path, True)


class Linear(Task):
    """Its loss is linear in one weight: the gradient of each element is the mean of row + 1 over the batch."""

    def __init__(self):
        student = make_model(VIT, NO_DROPOUT, seed=3)
        super().__init__(student, augment(), NORMALIZE, None, ("visual_projection",), [])
        self.adapter = nn.Parameter(torch.zeros(()))  # a parameter of the task itself
        self.rows: list[list[int]] = []
        self.draws: list[float] = []
        self.checked: list[int] = []
        self.weights = [self.weight.detach().clone()]
        self.gradients: list[Tensor] = []
        self.infinite_at = -1

    @property
    def weight(self) -> nn.Parameter:
        """The weight that is trained."""
        return self.student.visual_projection.weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if self.training:
            self.rows.append(batch["rows"].tolist())
            self.draws.append(torch.rand(1, dtype=torch.float64).item())
        else:
            self.checked.append(len(batch["rows"]))
        factor = (batch["rows"].float() + 1).mean()
        if len(self.rows) == self.infinite_at:
            factor = factor * math.inf
        return {"loss": factor * (self.weight.sum() + self.adapter)}

    def after_step(self):
        self.weights.append(self.weight.detach().clone())
        self.gradients.append(self.weight.grad.clone())


@pytest.fixture(scope="module")
def dataset(train_rows, tokenizer) -> PairDataset:
    tokens = CaptionTokenizer(tokenizer, 32)
    return PairDataset(train_rows.select(range(24)), make_recipe(Path()).data, tokens, IMAGE_SIZE)


@pytest.fixture
def run(dataset, processor):
    def run(task: Task, recipe: AlignRecipe, evaluate: Evaluate | None = None) -> Log:
        kept = checkpoint.list_checkpoints(recipe.output_dir) if recipe.resume else []
        opened = Run(recipe, make_accelerator(recipe), "test", kept)
        return train(task, dataset, processor, opened, evaluate)

    return run


def test_matrices_alone_have_weight_decay_and_only_what_is_trained_is_stepped(tmp_path):
    layers = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 4))
    layers[2].requires_grad_(False)
    optimizer = make_optimizer(layers, make_recipe(tmp_path, weight_decay=0.3))
    decayed, others = ([*map(id, group["params"])] for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert decayed == [id(layers[0].weight)]
    assert others == [id(layers[0].bias), *map(id, layers[1].parameters())]


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_learning_rate_of_every_step(tmp_path, schedule):
    options = {"max_steps": 8, "warmup_steps": 4, "learning_rate": 2.0, "schedule": schedule}
    recipe = make_recipe(tmp_path, **options)
    for step, warmup in ((0, 0.25), (2, 0.75), (3, 1), (7, 1)):
        factor = 1 if schedule == "constant" else (1 + math.cos(math.pi * step / 8)) / 2
        assert learning_rate_at(step, recipe) == pytest.approx(2 * warmup * factor)
    assert learning_rate_at(0, replace(recipe, warmup_steps=0)) == 2.0


def test_the_loop_takes_the_steps_of_adamw_with_clipped_gradients(tmp_path, run):
    options = {"weight_decay": 0.1, "betas": (0.6, 0.7), "learning_rate": 0.05, "max_steps": 4}
    options["max_grad_norm"] = 0.5
    recipe = make_recipe(tmp_path, **options)
    task = Linear()
    run(task, recipe)
    weight = nn.Parameter(task.weights[0].clone())
    adamw = torch.optim.AdamW([weight], weight_decay=0.1, betas=(0.6, 0.7))
    rates = losses(tmp_path, "learning_rate")
    for step, rows in enumerate(task.rows):
        assert rates[step] == pytest.approx(learning_rate_at(step, recipe))
        adamw.param_groups[0]["lr"] = rates[step]
        # the adapter has the gradient of each element, and a share of the norm
        gradient = torch.full((weight.numel() + 1,), np.mean(rows) + 1)
        gradient *= min(1.0, 0.5 / gradient.norm().item())
        weight.grad = gradient[:-1].reshape(weight.shape)
        adamw.step()
        torch.testing.assert_close(task.weights[step + 1], weight.detach())


@pytest.mark.parametrize("infinite_at", [2, 3])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(tmp_path, run, infinite_at):
    task = Linear()
    task.infinite_at = infinite_at
    with pytest.raises(FloatingPointError, match=rf"^step {infinite_at}: the loss is not finite"):
        run(task, make_recipe(tmp_path, save_every=1, keep_checkpoints=9))
    saved = [path.name for path in checkpoint.list_checkpoints(tmp_path)]
    assert saved == [f"checkpoint-{step:06d}" for step in range(1, infinite_at)]
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("decay", [0.15, 0.999])
def test_the_average_that_is_measured_and_exported_includes_every_step_once(tmp_path, run, decay):
    task, measured = Linear(), []

    def measure(model: DCCLIPModel) -> dict[str, float]:
        assert not model.training
        measured.append(model.visual_projection.weight.detach().clone())
        return {"top1": 0.5}

    fields = {"ema_decay": decay, "eval_every": 5, "learning_rate": 0.1, "max_steps": 5}
    fields["eval"] = EvalConfig(data="rows", class_names="names")  # which `measure` replaces
    run(task, make_recipe(tmp_path, **fields), measure)
    average = task.weights[0]
    for step, weight in enumerate(task.weights[1:]):
        average = torch.lerp(weight, average, min(decay, (1 + step) / (10 + step)))
    exported = load_file(tmp_path / "model.safetensors")["visual_projection.weight"]
    torch.testing.assert_close(exported, average)
    (found,) = measured
    assert torch.equal(found, exported)


def test_processes_differ_in_their_draws_add_up_their_images_and_evaluate_together(
    tmp_path, run, dataset, monkeypatch
):
    def work():
        torch.set_num_threads(1)
        fields = {"eval_every": 2, "eval": EvalConfig(data="rows", class_names="names")}
        recipe = make_recipe(tmp_path, max_steps=2, **fields)
        accelerator, norm = make_accelerator(recipe), nn.BatchNorm1d(2)
        task, rank = Linear(), accelerator.process_index
        assert not accelerator.ddp_handler.broadcast_buffers  # at every step
        monkeypatch.setattr(Linear, "moving_norms", [norm])
        norm.running_mean += rank

        def evaluate(_: DCCLIPModel) -> dict[str, float]:  # by both, with the statistics of one
            (tmp_path / f"{rank}.evaluated").write_text(str(norm.running_mean.tolist()))
            return {"top1": 0.5}

        dataset.skipped.max_share = 1.0
        dataset.skipped.add(1000 + rank, "a cause of this test")
        result = run(task, recipe, evaluate)
        # before the first step, where nothing is checkpointed
        assert task.checked == [2]
        images = result.images_per_s * result.seconds
        (tmp_path / f"{rank}.json").write_text(json.dumps([task.draws, task.rows]))
        assert images == pytest.approx(16) and str(dataset.skipped) == "a cause of this test: 2"

    debug_launcher(work)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    evaluated = [(tmp_path / f"{rank}.evaluated").read_text() for rank in (0, 1)]
    assert evaluated == ["[0.0, 0.0]"] * 2
    assert len({*first[0], *second[0]}) == 4  # dropout of each process and each batch
    assert len(np.unique([first[1], second[1]])) == 16


def test_a_run_with_a_constant_rate_goes_on_for_longer(tmp_path, run):
    whole, longer = Linear(), Linear()
    recipe = make_recipe(tmp_path / "whole", schedule="constant", save_every=1, max_steps=3)
    run(whole, recipe)
    short = replace(recipe, output_dir=str(tmp_path / "longer"), max_steps=2)
    run(Linear(), short)
    run(longer, replace(short, max_steps=3, resume=True))
    assert len(longer.rows) == 1 and torch.equal(longer.weight, whole.weight)
    with pytest.raises(ValueError, match=r"resume: .*000003 is beyond max_steps, which is 2\."):
        run(Linear(), replace(short, resume=True))


def test_every_field_of_a_recipe_counts_but_those_that_change_no_weight(tmp_path, dataset):
    def key(recipe: AlignRecipe) -> dict[str, Any]:
        return run_identity(recipe, dataset, 1, "a")

    assert ignored_fields(key, make_recipe(tmp_path)) == [
        "output_dir",
        "data.max_skip_share",
        "data.in_memory",
        "data.workers",
        "gradient_checkpointing",
        "log_every",
        "trackers",
        "save_every",
        "keep_checkpoints",
        "resume",
        "overwrite",
        "eval_every",
        "push_to_hub",
        "hub_model_id",
        "hub_private_repo",
    ]


def test_a_run_is_known_by_its_data_its_processes_and_its_teacher(tmp_path, dataset, train_rows):
    recipe = make_recipe(tmp_path)
    same = run_identity(recipe, dataset, 1, "a")
    rows = train_rows.select(range(1, 25))
    other = PairDataset(rows, recipe.data, dataset.tokens, IMAGE_SIZE)
    for rows, processes, teacher in ((other, 1, "a"), (dataset, 2, "a"), (dataset, 1, "b")):
        assert run_identity(recipe, rows, processes, teacher) != same


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    for name in ("000010", "1000000", "000009", "5"):  # the last one was written by something else
        (tmp_path / f"checkpoint-{name}").mkdir()
    found = [path.name.partition("-")[2] for path in checkpoint.list_checkpoints(tmp_path)]
    assert found == ["000009", "000010", "1000000"]


def test_the_gradient_scale_of_fp16_is_restored(tmp_path, dataset):
    recipe = make_recipe(tmp_path)
    accelerator = make_accelerator(recipe)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)  # as with fp16
    state = TrainingState(Linear(), recipe, accelerator, dataset)
    write = state.exported_model().save_pretrained
    checkpoint.save_checkpoint(recipe, write, state.tensors(), state.values())
    accelerator.scaler = torch.amp.GradScaler("cpu")
    saved = checkpoint.list_checkpoints(tmp_path)
    TrainingState(Linear(), recipe, accelerator, dataset, saved)
    assert accelerator.scaler.state_dict()["scale"] == 64.0


class Unreached(nn.Module):
    """A task whose head is not used."""

    def __init__(self):
        super().__init__()
        self.norm, self.tower, self.head = nn.BatchNorm1d(2), nn.Linear(2, 1), nn.Linear(2, 1)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.tower(self.norm(batch)) * self.frozen).sum()}


def test_layers_that_no_loss_reaches_are_frozen_and_statistics_stay():
    task = Unreached()
    freeze_unreached(task, torch.rand(4, 2))
    learned = {name for name, each in task.named_parameters() if each.requires_grad}
    assert learned == {"norm.weight", "norm.bias", "tower.weight", "tower.bias"}
    assert not task.norm.running_mean.any()
    assert all(each.grad is None for each in task.parameters())


def test_depthwise_convolutions_of_a_copy_leave_autocast():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1))
    keep_depthwise_in_float32(model)
    other = deepcopy(model)
    nn.init.zeros_(other[0].weight)
    images = torch.rand(2, 4, 5, 5) / 3
    with torch.autocast("cpu", torch.bfloat16):
        found, of_copy, pointwise = model[0](images), other[0](images), model[1](images)
    expected = nn.functional.conv2d(images, model[0].weight, model[0].bias, groups=4)
    assert found.equal(expected.bfloat16())  # rounded once, at the end
    assert of_copy.equal(model[0].bias.bfloat16()[:, None, None].expand_as(of_copy))
    assert pointwise.dtype == torch.bfloat16
