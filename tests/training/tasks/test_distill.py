"""Stage 1: every loss of a small batch equals a plain loop, and the parts of a task that both stages share."""

import numpy as np
import pytest
import torch

from tests.tiny import NO_DROPOUT, PROJECTION_DIM, VIT, XLM_ROBERTA, make_model, student_config
from tests.training.tasks.hand_made import (
    LENGTH,
    NORMALIZE,
    FixedTargets,
    augment,
    cosine_distance,
    data_config,
    divergence,
    encode,
    make_batch,
    random,
    rotation,
    unit,
)
from training.config import DistillRecipe
from training.engine.rotation import rotate
from training.tasks import DistillTask

IMAGE_WIDTH = 24
TEXT_WIDTH = 20  # of the teacher's maps
GRID = 4
BANK = random(5, PROJECTION_DIM, seed=6)


@pytest.fixture
def batch():
    """Two images, and three captions of 3, 4 and 5 tokens; the vocabulary splits the second in other pieces."""
    return make_batch([0, 0, 1], [0, 1, 0], [7, 9], aligned=torch.tensor([True, False, True]))


def make_targets(text_length=LENGTH):
    maps = random(2, IMAGE_WIDTH, GRID, GRID, seed=1), random(3, text_length, TEXT_WIDTH, seed=2)
    return FixedTargets(random(2, PROJECTION_DIM, seed=3), random(3, PROJECTION_DIM, seed=4), *maps)


def make_task(targets=None, student=None, **fields):
    options = {"output_dir": "", "data": data_config(), "teacher": "t"}
    recipe = DistillRecipe(student=student_config(), **options, **fields)
    student = student or make_model(VIT, NO_DROPOUT, seed=3)
    torch.manual_seed(0)
    widths = {"vision": IMAGE_WIDTH, "text": TEXT_WIDTH}
    targets = targets or make_targets()
    task = DistillTask(student, augment(), NORMALIZE, targets, recipe, widths, BANK, 30.0)
    return task.eval()


def smooth_l1(student, teacher):
    """Mean over channels of one position, after the teacher's LayerNorm; quadratic up to a difference of 2."""
    whitened = (teacher - teacher.mean()) / np.sqrt(teacher.var() + 1e-5)
    difference = np.abs(student - whitened)
    return float(np.where(difference < 2, difference**2 / 4, difference - 1).mean())


@pytest.mark.parametrize("text_length", [5, LENGTH + 2])
@torch.no_grad()
def test_the_text_map_is_compared_at_tokens_of_aligned_captions(batch, text_length):
    targets = make_targets(text_length)
    task = make_task(targets)
    distances = []
    for number in (0, 2):  # the captions with the same pieces
        ids = batch["input_ids"][number : number + 1, : 3 + number]
        states = task.student.get_text_features(ids, torch.ones_like(ids)).last_hidden_state[0]
        teacher = targets.text.feature_map[number].numpy()
        for token, state in enumerate(task.adapters["text"](states).numpy()):
            distances.append(smooth_l1(state, teacher[token]))
    assert len(distances) == 3 + 5
    assert task(batch)["text_map"].item() == pytest.approx(np.mean(distances), rel=1e-5)


@torch.no_grad()
def test_the_image_map_is_compared_at_every_position(batch):
    targets = make_targets()
    task = make_task(targets)
    maps = task.student.get_image_features(NORMALIZE(batch["images"])).feature_map
    adapted = task.adapters["vision"](maps).numpy()
    teacher = targets.image.feature_map.numpy()
    distances = [
        smooth_l1(adapted[image, :, row, column], teacher[image, :, row, column])
        for image, row, column in np.ndindex(2, GRID, GRID)
    ]
    assert task(batch)["vision_map"].item() == pytest.approx(np.mean(distances), rel=1e-4)


@torch.no_grad()
def test_embeddings_are_compared_at_every_width_in_the_rotated_space(batch):
    targets = make_targets()
    student = make_model(VIT, NO_DROPOUT, seed=3, prefixes=[4, 8])
    rotate(student, turn := rotation())
    losses = make_task(targets, student)(batch)
    teacher = {"vision": targets.image, "text": targets.text}
    for (name, target), found in zip(teacher.items(), encode(student, batch), strict=True):
        turned = target.embedding @ turn
        expected = [
            cosine_distance(found[:, :width], turned[:, :width]) for width in (4, 8, PROJECTION_DIM)
        ]
        assert losses[f"{name}_embedding"].item() == pytest.approx(np.mean(expected), rel=1e-4)


@torch.no_grad()
def test_logits_are_compared_at_the_scale_of_the_teacher(batch):
    targets = make_targets()
    turn = rotation()
    rotate(student := make_model(VIT, NO_DROPOUT, seed=3), turn)
    weights = {"map_weight": 0.0, "embedding_weight": 0.0, "logits_weight": 2.0}
    losses = make_task(targets, student, tower="text", **weights)(batch)
    found = 30 * unit(encode(student, batch)[1]) @ unit(BANK @ turn).T
    teacher = 30 * unit(targets.text.embedding) @ unit(BANK).T
    assert losses.keys() == {"text_logits", "loss"}
    assert losses["text_logits"].item() == pytest.approx(divergence(found, teacher), rel=1e-3)


@torch.no_grad()
def test_the_loss_is_the_weighted_sum(batch):
    weights = {"map": 0.25, "embedding": 0.5, "logits": 2.0}
    losses = make_task(**{f"{name}_weight": weight for name, weight in weights.items()})(batch)
    total = losses.pop("loss")
    parts = [value * weights[name.partition("_")[2]] for name, value in losses.items()]
    assert len(parts) == 6
    torch.testing.assert_close(total, sum(parts))


def test_the_teacher_and_the_student_see_the_same_view(batch):
    targets = make_targets()
    task = make_task(targets)
    task.augment = augment(rotate=40.0, zoom=0.5)
    seen = []

    def normalize(images):
        seen.append(images)
        return NORMALIZE(images)

    task.normalize = normalize
    task(task.augmented(batch))
    expected = task.augment(batch["images"], task.augment.views(batch["rows"], batch["view_ids"]))
    assert torch.equal(targets.seen[0], expected)
    assert torch.equal(seen[0], expected)


def test_frozen_parts_stay_in_eval_mode_and_whole_names_are_frozen():
    student = make_model(VIT | {"num_hidden_layers": 11}, XLM_ROBERTA, seed=3)
    make_task(student=student, freeze=["vision_model.layers.1", "text_model."]).train()
    frozen = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    towers = {name for name in frozen if name.startswith(("vision_model.layers.1.", "text_model."))}
    assert frozen - towers == {"logit_scale"}
    assert towers  # stage 1 has no use for the logit scale
    assert not any(module.training for module in student.text_model.modules())
    assert not student.vision_model.layers[1].training
    assert student.vision_model.layers[10].training


TOWERS = ["vision_model", "visual_projection", "text_model", "text_projection"]


@pytest.mark.parametrize("freeze", [["text_model.embed"], TOWERS], ids=["unknown", "everything"])
def test_freezing_an_unknown_name_or_everything_is_refused(freeze):
    with pytest.raises(ValueError, match=r"^freeze: "):
        make_task(freeze=freeze)
