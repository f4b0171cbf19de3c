"""Stage 2: every loss of a small batch equals a plain loop."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from modeling_dcclip import DCCLIPModel
from tests.tiny import NO_DROPOUT, PROJECTION_DIM, SMALL, VIT, make_model
from tests.training.tasks.hand_made import (
    NORMALIZE,
    FixedTargets,
    augment,
    cosine_distance,
    data_config,
    encode,
    info_nce,
    make_batch,
    random,
    rotation,
    unit,
)
from training.config import AlignRecipe, DataConfig, SourceConfig
from training.data.batch import Batch
from training.engine.rotation import rotate
from training.tasks import AlignTask
from training.tasks import classes as classes_module
from training.tasks.classes import ClassNames
from training.tasks.general import GeneralTexts
from training.tasks.loss import OwnInputs
from training.tasks.photos import GeneralPhotos
from training.teachers.family import Targets

# rows 7 and 9 are one image in two views; caption 4 equals caption 2, of another image
OWNER, LANGUAGE, ROWS = [0, 0, 1, 1, 2, 3, 3], [0, 1, 0, 1, 0, 0, 1], [7, 8, 9, 7]
CAPTIONS = torch.tensor([0, 1, 2, 3, 2, 5, 6])


@pytest.fixture
def batch() -> Batch:
    return make_batch(OWNER, LANGUAGE, ROWS, caption_ids=CAPTIONS)


def make_positive() -> np.ndarray:
    """Whether caption t, or one equal to it, belongs to image b, or to one equal to it; (4, 7)."""
    own = {(ROWS[image], int(caption)) for image, caption in zip(OWNER, CAPTIONS, strict=True)}
    return np.array([[(row, int(caption)) in own for caption in CAPTIONS] for row in ROWS])


def make_task(
    recipe_class: Callable[..., AlignRecipe] = AlignRecipe,
    student: DCCLIPModel | None = None,
    targets: FixedTargets | None = None,
    languages: tuple[str, ...] = ("en", "zh"),
    own_inputs: dict[str, OwnInputs] | None = None,
    **fields,
) -> AlignTask:
    defaults: dict[str, Any] = {"data": data_config(*languages)}
    recipe = recipe_class(output_dir="", **defaults | fields)
    student = student or make_model(VIT, NO_DROPOUT, seed=3)
    task = AlignTask(
        student, augment(), NORMALIZE, targets, recipe, list(languages), 20.0, own_inputs
    )
    return task.eval()


def make_targets() -> FixedTargets:
    return FixedTargets(random(4, PROJECTION_DIM, seed=3), random(7, PROJECTION_DIM, seed=4))


def divergence(student: np.ndarray, teacher: np.ndarray) -> float:
    logs, teacher_logs = (
        each - np.log(np.exp(each).sum(1, keepdims=True)) for each in (student, teacher)
    )
    return float((np.exp(teacher_logs) * (teacher_logs - logs)).sum(1).mean())


def scale_of(task: AlignTask) -> float:
    return task.student.logit_scale.exp().item()


@torch.no_grad()
def test_the_contrastive_loss_knows_equal_images_and_equal_captions(batch):
    task = make_task()
    (image, text), losses = encode(task.student, batch), task(batch)
    for number, language in enumerate(("en", "zh")):
        chosen = np.array(LANGUAGE) == number
        expected = info_nce(image, text[chosen], scale_of(task), make_positive()[:, chosen])
        assert losses[f"contrastive_{language}"].item() == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_the_sigmoid_loss_takes_every_pair_on_its_own(batch):
    task = make_task(loss="sigmoid")
    task.logit_bias.fill_(-3.0)
    (image, text), losses = encode(task.student, batch), task(batch)
    chosen = np.array(LANGUAGE) == 0
    logits = scale_of(task) * unit(image) @ unit(text[chosen]).T - 3
    expected = (
        np.log1p(np.exp(np.where(make_positive()[:, chosen], -logits, logits))).sum() / chosen.sum()
    )
    assert losses["contrastive_en"].item() == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_losses_with_a_teacher_compare_in_the_space_of_the_student(batch):
    targets, weights = make_targets(), {"affinity_weight": 1.0, "anchor_weight": 1.0}
    student = make_model(VIT, NO_DROPOUT, seed=3)
    rotate(student, turn := rotation())
    task = make_task(targets=targets, student=student, **weights)
    (image, text), losses, scale = encode(student, batch), task(batch), scale_of(task)
    teacher_image, teacher_text = (
        each.embedding.numpy() @ turn.numpy() for each in (targets.image, targets.text)
    )
    chosen = np.array([0, 2, 4, 5])  # English
    similarities = unit(image) @ unit(text[chosen]).T
    teacher_similarities = unit(teacher_image) @ unit(teacher_text[chosen]).T
    expected = (
        divergence(scale * similarities, 20 * teacher_similarities)
        + divergence(scale * similarities.T, 20 * teacher_similarities.T)
    ) / 2
    assert losses["affinity_en"].item() == pytest.approx(expected, rel=1e-3)
    assert losses["anchor_image"].item() == pytest.approx(
        cosine_distance(image, teacher_image), rel=1e-4
    )
    assert losses["anchor_text"].item() == pytest.approx(
        cosine_distance(text, teacher_text), rel=1e-4
    )


@torch.no_grad()
def test_captions_of_every_two_languages_are_compared():
    batch = make_batch([0, 0, 0, 1, 1, 2, 2], [0, 1, 2, 0, 1, 1, 2], [1, 2, 3])
    task = make_task(languages=("en", "zh", "fr"), text_text_weight=1.0)
    text, scale, values = encode(task.student, batch)[1], scale_of(task), []
    owner, language = batch["owner"].numpy(), batch["language"].numpy()
    for pair in ((0, 1), (0, 2), (1, 2)):
        first, second = (np.flatnonzero(language == number) for number in pair)
        values.append(
            info_nce(text[first], text[second], scale, owner[first][:, None] == owner[second])
        )
    losses = task(batch)
    assert losses["text_text"].item() == pytest.approx(np.mean(values), rel=1e-4)
    contrastive = sum(losses[f"contrastive_{name}"] for name in ("en", "zh", "fr")) / 3
    torch.testing.assert_close(losses["loss"], contrastive + losses["text_text"])


@torch.no_grad()
def test_the_loss_is_the_mean_over_the_languages_of_the_batch(batch):
    task = make_task(contrastive_weight=0.5)
    losses = task(batch)
    torch.testing.assert_close(
        losses["loss"], 0.5 * (losses["contrastive_en"] + losses["contrastive_zh"]) / 2
    )
    for name, number in (("en", 0), ("zh", 1)):
        losses = task(make_batch([0, 1, 2, 3], [number] * 4, [1, 2, 3, 4]))
        assert {key for key in losses if key.startswith("contrastive")} == {f"contrastive_{name}"}
        torch.testing.assert_close(losses["loss"], 0.5 * losses[f"contrastive_{name}"])


@torch.no_grad()
def test_losses_are_means_over_widths(batch):
    task = make_task(student=make_model(VIT, NO_DROPOUT, seed=3, prefixes=[4, 8]))
    (image, text), losses = encode(task.student, batch), task(batch)
    chosen = np.array(LANGUAGE) == 0
    widths = (4, 8, PROJECTION_DIM)
    positive = make_positive()[:, chosen]
    each = [
        info_nce(image[:, :width], text[chosen, :width], scale_of(task), positive)
        for width in widths
    ]
    assert losses["contrastive_en"].item() == pytest.approx(np.mean(each), rel=1e-4)


def make_own_inputs(student: DCCLIPModel, number: int) -> tuple[Batch, dict[str, OwnInputs]]:
    """General texts and photos, and the batch that they were made of."""
    beyond = make_batch(list(range(number)), [0] * number, list(range(number)))
    maps = student.get_image_features(NORMALIZE(beyond["images"])).feature_map.detach() + 0.1
    texts = {name: beyond[name] for name in ("input_ids", "attention_mask")}
    return beyond, {
        "general": GeneralTexts(texts, random(number, PROJECTION_DIM, seed=1)),
        "photos": GeneralPhotos(beyond["images"], random(number, PROJECTION_DIM, seed=2), maps),
    }


@torch.no_grad()
def test_texts_and_images_beyond_the_data_keep_the_embeddings_of_the_teacher(batch):
    student = make_model(VIT, NO_DROPOUT, seed=3)
    rotate(student, turn := rotation())
    beyond, own = make_own_inputs(student, 5)
    weights = {"general_weight": 0.5, "photo_weight": 0.25, "contrastive_weight": 0.0}
    losses = make_task(targets=make_targets(), student=student, **weights, own_inputs=own)(batch)
    image, text = encode(student, beyond)
    expected = cosine_distance(text, own["general"].targets @ turn)
    assert losses["general"].item() == pytest.approx(expected, rel=1e-4)
    expected = cosine_distance(image, own["photos"].targets @ turn)
    assert losses["photos_embedding"].item() == pytest.approx(expected, rel=1e-4)
    maps = own["photos"].maps.flatten(1)
    # the mean over images, not their sum
    expected = (0.1**2 * maps.shape[1] / maps.square().sum(1)).mean().item()
    assert losses["photos_map"].item() == pytest.approx(expected, rel=1e-3)
    photos = losses["photos_embedding"] + losses["photos_map"]
    torch.testing.assert_close(losses["loss"], 0.5 * losses["general"] + 0.25 * photos)


@torch.no_grad()
def test_each_batch_draws_other_texts_and_images_by_its_number_and_the_seed(batch):
    student = make_model(VIT, NO_DROPOUT, seed=3)
    own = make_own_inputs(student, 70)[1]
    weights = {"general_weight": 1.0, "photo_weight": 1.0}

    def losses_of(number: int, seed: int = 0) -> tuple[float, float]:
        task = make_task(
            targets=make_targets(), student=student, **weights, own_inputs=own, seed=seed
        )
        task.before_batch(number)
        losses = task(batch)
        return losses["general"].item(), losses["photos_embedding"].item()

    first = losses_of(0)
    assert losses_of(0) == first
    for other in (losses_of(1), losses_of(0, seed=1)):
        assert other[0] != first[0] and other[1] != first[1]


@torch.no_grad()
@pytest.mark.parametrize("num_random", [1, 9])
def test_similarities_to_class_names_follow_the_classifier(batch, monkeypatch, num_random):
    monkeypatch.setattr("training.tasks.classes.NUM_DRAWN", num_random)
    targets = make_targets()
    targets.image = Targets(random(4, 6, 1, 1, seed=5), targets.image.embedding)
    names = make_batch(list(range(2 * 9)), [0] * 2 * 9, [0])
    tokens = {name: names[name] for name in ("input_ids", "attention_mask")}
    weight, bias = random(9, 6, seed=7), random(9, seed=8)
    own = {"classes": ClassNames(weight, bias, tokens, batch_size=len(ROWS))}
    fields = {"class_weight": 0.5, "contrastive_weight": 0.0}
    task = make_task(targets=targets, own_inputs=own, **fields)
    losses = task(batch)
    logits = targets.image.feature_map.mean((2, 3)).numpy() @ weight.numpy().T + bias.numpy()
    classes = sorted({*task.draw(9, num_random).tolist(), *logits.argmax(1).tolist()})
    assert (len(classes) == 9) is (num_random == 9)
    image, values = unit(encode(task.student, batch)[0]), []
    for language in range(2):
        rows = [number + 9 * language for number in classes]
        texts = [
            task.student.get_text_features(ids[mask.bool()][None]).pooler_output[0].numpy()
            for ids, mask in zip(
                tokens["input_ids"][rows], tokens["attention_mask"][rows], strict=True
            )
        ]
        similarities = classes_module.LOGIT_SCALE * image @ unit(np.stack(texts)).T
        values.append(divergence(similarities, logits[:, classes]))
    assert losses["classes"].item() == pytest.approx(np.mean(values), rel=1e-3)
    torch.testing.assert_close(losses["loss"], 0.5 * losses["classes"])


@torch.no_grad()
def test_a_frozen_image_tower_is_read_from_the_targets(batch):
    student = make_model(VIT, NO_DROPOUT, seed=3)
    own = student.get_image_features(NORMALIZE(batch["images"].float()))
    targets = make_targets()
    targets.image = Targets(own.feature_map.mean((2, 3), keepdim=True), own.pooler_output)
    frozen = {"teacher": "s", "teacher_cache": "c", "freeze": ["vision_model"]}
    expected = make_task(student=student)(batch)
    task = make_task(partial(AlignRecipe, student="s"), student, targets, **frozen)
    task.student.vision_model = None  # does not run
    assert task(batch)["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-4)
    assert "anchor_image" not in task(batch)


@pytest.mark.parametrize(("before", "after"), [(10.0, np.log(100)), (-1.0, 0.0), (3.0, 3.0)])
def test_the_logit_scale_is_clamped_after_a_step(before, after):
    task = make_task()
    with torch.no_grad():
        task.student.logit_scale.fill_(before)
    task.after_step()
    assert task.student.logit_scale.item() == pytest.approx(after, rel=1e-6)


@pytest.mark.parametrize(
    "text", [NO_DROPOUT, SMALL | {"model_type": "clip_text_model"}], ids=["modules", "attention"]
)
@torch.no_grad()
def test_dropout_of_the_text_tower_is_for_training_alone(batch, text):
    ids, mask = (batch[name] for name in ("input_ids", "attention_mask"))

    def task_of(**fields: Any) -> AlignTask:
        return make_task(student=make_model(VIT, text, seed=3), **fields)

    def embed(task: AlignTask) -> torch.Tensor:
        torch.manual_seed(0)
        return task.student.get_text_features(ids, mask).pooler_output

    plain = embed(task_of())
    task = task_of(dropout=0.5)
    assert torch.equal(embed(task), plain)
    assert not torch.allclose(embed(task.train()), plain)
    config = task.student.config.text_config
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout")
    assert not any(getattr(config, name, 0) for name in names)  # of the exported model
    assert torch.equal(embed(task_of().train()), plain)


def test_a_loss_that_needs_a_teacher_is_refused_without_one():
    with pytest.raises(ValueError, match=r"^anchor_weight is 0\.5"):
        make_task(anchor_weight=0.5)


def test_a_loss_between_languages_is_refused_where_no_batch_has_two():
    sources = [SourceConfig(train="x", caption_columns={name: name}) for name in ("en", "zh")]
    with pytest.raises(ValueError, match=r"^text_text_weight is 0\.5, but data\.caption_columns"):
        make_task(data=DataConfig(sources=sources), text_text_weight=0.5)
