"""Stage 1: every loss of a small batch equals a plain loop, and the parts of a task that both stages share."""

import numpy as np
import pytest
import torch

from tests.tiny import NO_DROPOUT, PROJECTION_DIM, VIT, XLM_ROBERTA, make_model, student_config
from tests.training.tasks.hand_made import (
    LENGTH,
    NORMALIZE,
    FixedTargets,
    assert_equal,
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
from training.config import AugmentConfig, DistillRecipe
from training.data.images import Augment
from training.engine.rotation import rotate
from training.tasks import DistillTask

# widths of the teacher's maps
IMAGE_WIDTH = 24
TEXT_WIDTH = 20
GRID = 4
BANK = random(5, PROJECTION_DIM, seed=6)


@pytest.fixture
def batch():
    """Two images, and three captions of 3, 4 and 5 tokens; the vocabulary splits the second in other pieces."""
    return make_batch([0, 0, 1], [0, 1, 0], [7, 9], aligned=torch.tensor([True, False, True]))


def make_targets(text_length=LENGTH):
    return FixedTargets(
        image=random(2, PROJECTION_DIM, seed=3),
        text=random(3, PROJECTION_DIM, seed=4),
        image_map=random(2, IMAGE_WIDTH, GRID, GRID, seed=1),
        text_map=random(3, text_length, TEXT_WIDTH, seed=2),
    )


def make_task(targets=None, student=None, **fields):
    options = {"output_dir": "", "data": data_config(), "teacher": "t"}
    recipe = DistillRecipe(student=student_config(), **options, **fields)
    student = student or make_model(VIT, NO_DROPOUT, seed=3)
    widths = {"vision": IMAGE_WIDTH, "text": TEXT_WIDTH}
    targets = targets or make_targets()
    task = DistillTask(student, augment(), NORMALIZE, targets, recipe, widths, BANK, 30.0)
    return task.eval()


def test_adapters_start_with_the_seed_of_the_recipe():
    first, same, other = (make_task(seed=seed).adapters["text"].weight for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


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
    for number, length in ((0, 3), (2, 5)):  # the captions with the same pieces
        ids = batch["input_ids"][number : number + 1, :length]
        states = task.student.get_text_features(ids, torch.ones_like(ids)).last_hidden_state[0]
        found = task.adapters["text"](states).numpy()
        teacher = targets.text.feature_map[number].numpy()
        for token in range(length):
            distances.append(smooth_l1(found[token], teacher[token]))
    assert_equal(task(batch)["text_map"], np.mean(distances))


@torch.no_grad()
def test_the_image_map_is_compared_at_every_position(batch):
    targets = make_targets()
    task = make_task(targets)
    maps = task.student.get_image_features(NORMALIZE(batch["images"])).feature_map
    found = task.adapters["vision"](maps).numpy()
    teacher = targets.image.feature_map.numpy()
    distances = []
    for image, row, column in np.ndindex(2, GRID, GRID):
        position = (image, slice(None), row, column)
        distances.append(smooth_l1(found[position], teacher[position]))
    assert_equal(task(batch)["vision_map"], np.mean(distances))


@torch.no_grad()
@pytest.mark.parametrize("tower", ["vision", "text"])
def test_the_loss_is_the_weighted_sum_and_a_tower_without_maps_keeps_its_others(tower, batch):
    weights = {"map": 0.25, "embedding": 0.5, "logits": 2.0}
    task = make_task(**{f"{name}_weight": weight for name, weight in weights.items()})
    losses = task(batch)
    total = 0.0
    for name, value in losses.items():
        total = total + weights.get(name.rpartition("_")[2], 0.0) * value
    torch.testing.assert_close(losses["loss"], total)
    names = {*losses}
    del task.adapters[tower]
    assert {*task(batch)} == names - {f"{tower}_map"} > {"loss", f"{tower}_embedding"}


@torch.no_grad()
def test_statistics_of_the_data_whiten_all_positions_alike(batch):
    """Against a loop over what the batch shows: tokens of captions, and all positions of images."""
    targets = make_targets()
    task = make_task(targets, map_whitening="data", map_head="mlp")
    task.measure_maps([batch, batch])
    maps = {"vision": targets.image.feature_map.movedim(1, -1), "text": targets.text.feature_map}
    lengths = {"vision": [GRID] * 2, "text": [3, 4, 5]}
    for tower, each in maps.items():
        parts = zip(each.double(), lengths[tower], strict=True)
        states = torch.cat([part[:length].flatten(0, -2) for part, length in parts])  # (N, C)
        mean, scale = task.statistics[tower]
        torch.testing.assert_close(mean, states.mean(0).float())
        spread = (states - states.mean(0)).square().mean().sqrt()
        torch.testing.assert_close(scale, spread.float())
    student = task.student.get_image_features(NORMALIZE(batch["images"])).feature_map
    mean, scale = (each.numpy() for each in task.statistics["vision"])
    target = (targets.image.feature_map.numpy() - mean[:, None, None]) / scale
    difference = np.abs(task.adapters["vision"](student).numpy() - target)
    smooth = np.where(difference < 2, difference**2 / 4, difference - 1)
    assert_equal(task(batch)["vision_map"], smooth.mean())


@torch.no_grad()
def test_embeddings_are_compared_at_every_width_in_the_rotated_space(batch):
    targets = make_targets()
    student = make_model(VIT, NO_DROPOUT, seed=3, prefixes=[4, 8])
    turn = rotation()
    rotate(student, turn)
    losses = make_task(targets, student)(batch)
    image, text = encode(student, batch)
    pairs = {"vision": (image, targets.image), "text": (text, targets.text)}
    for name, (found, target) in pairs.items():
        turned = target.embedding @ turn
        expected = []
        for width in (4, 8, PROJECTION_DIM):
            expected.append(cosine_distance(found[:, :width], turned[:, :width]))
        assert_equal(losses[f"{name}_embedding"], np.mean(expected))


@torch.no_grad()
def test_logits_are_compared_at_the_scale_of_the_teacher(batch):
    targets = make_targets()
    turn = rotation()
    student = make_model(VIT, NO_DROPOUT, seed=3)
    rotate(student, turn)
    weights = {"map_weight": 0.0, "embedding_weight": 0.0, "logits_weight": 2.0}
    losses = make_task(targets, student, tower="text", **weights)(batch)
    found = 30 * unit(encode(student, batch)[1]) @ unit(BANK @ turn).T
    teacher = 30 * unit(targets.text.embedding) @ unit(BANK).T
    assert losses.keys() == {"text_logits", "loss"}
    assert_equal(losses["text_logits"], divergence(found, teacher), rel=1e-3)


def test_the_teacher_and_the_student_see_the_same_view(batch):
    targets = make_targets()
    task = make_task(targets)
    task.augment = Augment(AugmentConfig(rotate=40.0, zoom=0.5), 0)
    seen = []

    def normalize(images):
        seen.append(images)
        return NORMALIZE(images)

    task.normalize = normalize
    task(task.augmented(batch))
    expected = task.augment(batch["images"], task.augment.views(batch["rows"], batch["view_ids"]))
    assert torch.equal(targets.seen[0], expected)
    assert torch.equal(seen[0], expected)


def test_whole_names_are_frozen_and_stay_in_eval_mode():
    student = make_model(VIT | {"num_hidden_layers": 11}, XLM_ROBERTA, seed=3)
    make_task(student=student, freeze=["vision_model.layers.1", "text_model."]).train()
    layers = student.vision_model.layers
    assert not any(parameter.requires_grad for parameter in layers[1].parameters())
    assert all(parameter.requires_grad for parameter in layers[10].parameters())
    assert not student.logit_scale.requires_grad  # stage 1 does not use it
    assert student.vision_model.training
    assert not any(module.training for module in student.text_model.modules())


TOWERS = ["vision_model", "visual_projection", "text_model", "text_projection"]


@pytest.mark.parametrize("freeze", [["text_model.embed"], TOWERS], ids=["unknown", "everything"])
def test_freezing_an_unknown_name_or_everything_is_refused(freeze):
    with pytest.raises(ValueError, match=r"^freeze: "):
        make_task(freeze=freeze)
