"""Prefixes of the embedding and the rotation of the teacher's space, in both stages."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from modeling_dcclip import DCCLIPModel
from tests.tiny import (
    IMAGE_SIZE,
    MOBILENET,
    NO_DROPOUT,
    PROJECTION_DIM,
    VIT,
    make_model,
    recipe_fields,
    student_config,
)
from tests.training.engine.runs import losses, run
from tests.training.tasks.hand_made import augment, data_config
from training.config import AlignRecipe, DistillRecipe
from training.data import CaptionTokenizer, PairDataset
from training.data.images import Normalize
from training.engine.rotation import principal_axes, rotate, rotate_student
from training.tasks import AlignTask
from training.teachers import TOWERS
from training.teachers.targets import LiveTargets, TargetSpec

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

PREFIXES = [4, 8]


@pytest.fixture(scope="module")
def source(corpus) -> str:
    return str(corpus / "train.parquet")


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, source, teacher_folder) -> tuple[DistillRecipe, Path]:
    """Stage 1 with prefixes and two checkpoints. Tests must not write into it."""
    fields = recipe_fields(
        tmp_path_factory.mktemp("prefixes") / "distilled", source, max_steps=4, save_every=2
    )
    recipe = DistillRecipe(
        teacher=str(teacher_folder), student=student_config(), prefixes=PREFIXES, **fields
    )
    return recipe, run(recipe)


def test_principal_axes_are_orthogonal_sorted_and_of_one_sign():
    points = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = points * torch.tensor([0.1, 3.0, 1.0, 0.5, 2.0, 0.2])
    axes = principal_axes(points.T @ points)
    torch.testing.assert_close(axes.T @ axes, torch.eye(6, dtype=torch.float64))
    energies = (points @ axes).square().sum(0)
    assert (energies.diff() < 0).all() and axes[1, 0] > 0.9  # the second dimension varies most
    torch.testing.assert_close(principal_axes(3 * points.T @ points), axes)
    assert (axes.gather(0, axes.abs().argmax(0, keepdim=True)) > 0).all()


def test_the_axes_weigh_both_towers_alike_and_span_all_batches(
    train_rows, tokenizer, teacher, monkeypatch
):
    config = data_config(in_memory=True)
    dataset = PairDataset(
        train_rows.select(range(24)), config, CaptionTokenizer(tokenizer, 32), IMAGE_SIZE
    )
    normalize = Normalize.from_processor(teacher.image_processor, IMAGE_SIZE)
    recipe = AlignRecipe(output_dir="", data=config, teacher="t", batch_size=8, prefixes=PREFIXES)
    rows = [dataset[row] for row in range(24)]
    batch = dataset.collate([(row, 0, 0, content) for row, content in enumerate(rows)])
    varied = augment(brightness=0.5, contrast=0.5)
    views = varied(batch["images"], varied.views(batch["rows"], batch["view_ids"]))
    unit = [
        F.normalize(embeddings.double(), dim=-1)
        for embeddings in (
            teacher.image_targets(normalize(views)).embedding,
            teacher.text_targets(batch["input_ids"], batch["attention_mask"]).embedding,
        )
    ]
    assert len(unit[1]) == 2 * len(unit[0])  # which gives captions no larger share
    expected = principal_axes(sum(each.T @ each / len(each) for each in unit))
    student = make_model(VIT, NO_DROPOUT, seed=3)
    targets = LiveTargets(teacher, TargetSpec(TOWERS))
    task = AlignTask(student, varied, normalize, targets, recipe, dataset.languages).eval()
    rotate_student(task, dataset, recipe, torch.device("cpu"))
    torch.testing.assert_close(student.rotation.double(), expected, atol=1e-3, rtol=0)
    rotate_student(task, dataset, recipe, torch.device("cpu"))  # it is rotated once
    torch.testing.assert_close(student.rotation.double(), expected, atol=1e-3, rtol=0)


@torch.no_grad()
def test_rotations_keep_all_cosines_and_lead_from_the_space_of_the_teacher(inputs):
    student = make_model(MOBILENET)
    before, whole = student(**inputs), torch.eye(PROJECTION_DIM)
    for seed in (0, 1):
        axes = torch.randn(
            PROJECTION_DIM, PROJECTION_DIM, generator=torch.Generator().manual_seed(seed)
        )
        rotate(student, rotation := torch.linalg.qr(axes)[0])
        whole = whole @ rotation
    torch.testing.assert_close(student.rotation, whole, atol=1e-5, rtol=0)
    after = student(**inputs)
    torch.testing.assert_close(after.image_embeds, before.image_embeds @ whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.logits_per_image, before.logits_per_image, atol=1e-4, rtol=0)
    assert len(student.config.rotation) == 16 and "rotation" in student.state_dict()


@pytest.mark.slow
def test_a_resumed_run_keeps_the_rotation_to_the_bit(distilled, tmp_path):
    recipe, whole = distilled
    shutil.copytree(whole / "checkpoint-000002", tmp_path / "checkpoint-000002")
    resumed = run(replace(recipe, output_dir=str(tmp_path), resume=True))
    for name in ("model.safetensors", "config.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_stage_2_keeps_the_rotation_of_stage_1(distilled, tmp_path, source, teacher_folder):
    fields = recipe_fields(tmp_path / "aligned", source)
    recipe = AlignRecipe(
        student=str(distilled[1]),
        teacher=str(teacher_folder),
        anchor_weight=1.0,
        prefixes=[4],
        **fields,
    )
    before, after = (DCCLIPModel.from_pretrained(folder) for folder in (distilled[1], run(recipe)))
    assert (
        torch.equal(before.rotation, after.rotation)
        and before.config.rotation == after.config.rotation
    )
    assert after.config.prefixes == [4]


@pytest.mark.slow
def test_a_rotated_teacher_is_compared_in_its_own_space(distilled, tmp_path, source):
    fields = recipe_fields(tmp_path, source, max_steps=1, anchor_weight=1.0)
    folder = run(AlignRecipe(student=str(distilled[1]), teacher=str(distilled[1]), **fields))
    assert losses(folder, "anchor_image") == [
        pytest.approx(0, abs=1e-4)
    ]  # the student is a copy of its teacher


def test_a_frozen_image_tower_gives_the_axes_with_a_cache_of_its_images(
    tmp_path, source, teacher_folder
):
    fields = recipe_fields(tmp_path / "first", source, max_steps=1)
    student = str(
        run(DistillRecipe(teacher=str(teacher_folder), student=student_config(), **fields))
    )
    fields = recipe_fields(
        tmp_path / "run", source, max_steps=1, freeze=["vision_model"], prefixes=PREFIXES
    )
    run(
        AlignRecipe(
            student=student, teacher=student, teacher_cache=str(tmp_path / "cache"), **fields
        )
    )
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_prefixes_need_a_loss_between_embeddings(tmp_path):
    fields = recipe_fields(
        tmp_path, "rows", teacher="some/teacher", student=student_config(), embedding_weight=0.0
    )
    with pytest.raises(ValueError, match=r"^prefixes: "):
        DistillRecipe(prefixes=PREFIXES, **fields)
