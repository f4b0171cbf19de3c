"""Prefixes of the embedding and the rotation of the teacher's space, in both stages."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

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
from tests.training.tasks.hand_made import NORMALIZE, augment, data_config, rotation
from training.config import AlignRecipe, DistillRecipe
from training.data import CaptionTokenizer, PairDataset
from training.engine.rotation import principal_axes, rotate, rotate_student
from training.tasks import AlignTask
from training.teachers import TOWERS
from training.teachers.targets import LiveTargets, TargetSpec

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

PREFIXES = [4, 8]


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, corpus, teacher_folder) -> str:
    """Output folder of stage 1 with prefixes. Tests must not write into it."""
    fields = recipe_fields(tmp_path_factory.mktemp("distilled"), corpus / "train.parquet")
    fields |= {"teacher": str(teacher_folder), "student": student_config(), "prefixes": PREFIXES}
    return str(run(DistillRecipe(**fields)))


@pytest.fixture
def align(distilled, tmp_path, corpus):
    """Run stage 2 of the student of `distilled`."""

    def align(**fields) -> Path:
        fields = recipe_fields(tmp_path / "run", corpus / "train.parquet", max_steps=1) | fields
        return run(AlignRecipe(student=distilled, **fields))

    return align


def test_principal_axes_are_orthogonal_sorted_and_of_one_sign():
    points = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = points * torch.tensor([0.1, 3.0, 1.0, 0.5, 2.0, 0.2])
    axes = principal_axes(points.T @ points)
    torch.testing.assert_close(axes.T @ axes, torch.eye(6, dtype=torch.float64))
    assert ((points @ axes).square().sum(0).diff() < 0).all()
    assert (axes.amax(0) > -axes.amin(0)).all()


def test_the_axes_weigh_both_towers_alike(train_rows, tokenizer, teacher):
    recipe = AlignRecipe(output_dir="", student="s", data=data_config(), batch_size=8)
    rows, tokens = train_rows.select(range(24)), CaptionTokenizer(tokenizer, 32)
    dataset = PairDataset(rows, recipe.data, tokens, IMAGE_SIZE)
    targets = LiveTargets(teacher, TargetSpec(TOWERS))
    student = make_model(VIT, NO_DROPOUT, seed=3)
    task = AlignTask(student, augment(), NORMALIZE, targets, recipe).eval()
    batch = dataset.collate([(row, 0, 0, dataset[row]) for row in range(24)])
    both = targets.images(batch["images"], batch).embedding, targets.texts(batch).embedding
    assert len(both[1]) == 2 * len(both[0])  # which gives captions no larger share
    unit = [F.normalize(embeddings.double(), dim=-1) for embeddings in both]
    expected = principal_axes(sum(each.T @ each / len(each) for each in unit))
    for _ in range(2):  # it is rotated once
        rotate_student(task, dataset, recipe, Accelerator())
    torch.testing.assert_close(student.rotation.double(), expected, atol=1e-3, rtol=0)


@torch.no_grad()
def test_rotations_keep_all_cosines_and_lead_from_the_space_of_the_teacher(inputs):
    student = make_model(MOBILENET)
    before, whole = student(**inputs), torch.eye(PROJECTION_DIM)
    for seed in (0, 1):
        rotate(student, turn := rotation(seed))
        whole = whole @ turn
    torch.testing.assert_close(student.rotation, whole, atol=1e-5, rtol=0)
    after = student(**inputs)
    torch.testing.assert_close(after.image_embeds, before.image_embeds @ whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.logits_per_image, before.logits_per_image, atol=1e-4, rtol=0)
    assert len(student.config.rotation) == 16 and "rotation" in student.state_dict()


@pytest.mark.slow
def test_stage_2_keeps_the_rotation_and_compares_a_rotated_teacher_in_its_own_space(
    distilled, align
):
    folder = align(teacher=distilled, anchor_weight=1.0, prefixes=[4])
    # the student is a copy of its teacher
    assert losses(folder, "anchor_image") == [pytest.approx(0, abs=1e-4)]
    before, after = (DCCLIPModel.from_pretrained(each) for each in (distilled, folder))
    assert torch.equal(before.rotation, after.rotation)
    assert before.config.rotation == after.config.rotation and after.config.prefixes == [4]


@pytest.mark.slow
def test_a_frozen_image_tower_gives_the_axes_with_a_cache_of_its_images(
    tmp_path, corpus, teacher_folder
):
    teacher = str(teacher_folder)
    fields = recipe_fields(tmp_path / "run", corpus / "train.parquet", max_steps=1)
    fields |= {"freeze": ["vision_model"], "teacher_cache": str(tmp_path / "cache")}
    folder = run(AlignRecipe(student=teacher, teacher=teacher, prefixes=PREFIXES, **fields))
    assert "rotation" in DCCLIPModel.from_pretrained(folder).state_dict()
