"""Stage 2: every loss of a small batch equals a plain loop."""

from itertools import combinations

import numpy as np
import pytest
import torch

from tests.tiny import NO_DROPOUT, PROJECTION_DIM, SMALL, VIT, make_model
from tests.training.tasks.hand_made import (
    NORMALIZE,
    FixedTargets,
    assert_equal,
    augment,
    cosine_distance,
    data_config,
    divergence,
    encode,
    info_nce,
    make_batch,
    random,
    rotation,
    tokens_of,
    unit,
)
from training.config import AlignRecipe, DataConfig, SourceConfig
from training.engine.rotation import rotate
from training.tasks import AlignTask
from training.tasks.own_inputs import LOGIT_SCALE, ClassifierNames, GeneralPhotos, GeneralTexts
from training.teachers.family import Targets

# rows 7 and 9 are one image in two views; caption 4 equals caption 2, of another image
OWNER = [0, 0, 1, 1, 2, 3, 3]
LANGUAGE = [0, 1, 0, 1, 0, 0, 1]
ROWS = [7, 8, 9, 7]
CAPTIONS = [0, 1, 2, 3, 2, 5, 6]
ENGLISH = np.array(LANGUAGE) == 0
# whether caption t, or one equal to it, belongs to image b, or to one equal to it; (4, 7)
OWN = {(ROWS[image], caption) for image, caption in zip(OWNER, CAPTIONS, strict=True)}
POSITIVE = np.array([[(row, caption) in OWN for caption in CAPTIONS] for row in ROWS])


@pytest.fixture
def batch():
    return make_batch(OWNER, LANGUAGE, ROWS, caption_ids=torch.tensor(CAPTIONS))


@pytest.fixture
def student():
    return make_model(VIT, NO_DROPOUT, seed=3)


@pytest.fixture
def targets():
    return FixedTargets(random(4, PROJECTION_DIM, seed=3), random(7, PROJECTION_DIM, seed=4))


def make_task(
    student,
    targets=None,
    own_inputs=None,
    languages=("en", "zh"),
    **fields,
):
    defaults = {"output_dir": "", "student": "s", "data": data_config(*languages)}
    recipe = AlignRecipe(**defaults | fields)
    return AlignTask(student, augment(), NORMALIZE, targets, recipe, own_inputs).eval()


def scale_of(student):
    return student.logit_scale.exp().item()


@torch.no_grad()
@pytest.mark.parametrize(("language", "chosen"), [("en", ENGLISH), ("zh", ~ENGLISH)])
def test_the_contrastive_loss_knows_equal_images_and_equal_captions_at_every_width(
    batch, language, chosen
):
    student = make_model(VIT, NO_DROPOUT, seed=3, prefixes=[4, 8])
    losses = make_task(student)(batch)
    image, text = encode(student, batch)
    expected = []
    for width in (4, 8, PROJECTION_DIM):
        parts = (image[:, :width], text[chosen, :width])
        expected.append(info_nce(*parts, scale_of(student), POSITIVE[:, chosen]))
    assert_equal(losses[f"contrastive_{language}"], np.mean(expected))


@torch.no_grad()
def test_the_anchor_compares_in_the_space_of_the_student(batch, student, targets):
    turn = rotation()
    rotate(student, turn)
    losses = make_task(student, targets, anchor_weight=1.0)(batch)
    image, text = encode(student, batch)
    assert_equal(losses["anchor_image"], cosine_distance(image, targets.image.embedding @ turn))
    assert_equal(losses["anchor_text"], cosine_distance(text, targets.text.embedding @ turn))


@torch.no_grad()
def test_each_student_tower_is_contrasted_with_the_other_tower_of_the_teacher(
    batch, student, targets
):
    losses = make_task(student, targets, interactive_weight=1.0)(batch)
    image, text = encode(student, batch)
    expected = []
    for first, second in (
        (image, targets.text.embedding[ENGLISH]),
        (targets.image.embedding, text[ENGLISH]),
    ):
        expected.append(info_nce(first, second, scale_of(student), POSITIVE[:, ENGLISH]))
    assert_equal(losses["interactive_en"], np.mean(expected))


@torch.no_grad()
def test_captions_of_every_two_languages_are_compared(student):
    english = [0, 3]
    chinese = [1, 4, 5]
    french = [2, 6]
    batch = make_batch([0, 0, 0, 1, 1, 2, 2], [0, 1, 2, 0, 1, 1, 2], [1, 2, 3])
    losses = make_task(student, languages=("en", "zh", "fr"), text_text_weight=1.0)(batch)
    _, text = encode(student, batch)
    owner = batch["owner"].numpy()
    expected = []
    for first, second in combinations((english, chinese, french), 2):
        same = owner[first][:, None] == owner[second]
        expected.append(info_nce(text[first], text[second], scale_of(student), same))
    assert_equal(losses["text_text"], np.mean(expected))
    contrastive = sum(losses[f"contrastive_{name}"] for name in ("en", "zh", "fr")) / 3
    torch.testing.assert_close(losses["loss"], contrastive + losses["text_text"])


@torch.no_grad()
def test_a_batch_in_one_language_has_the_whole_weight(student):
    losses = make_task(student, contrastive_weight=0.5)(make_batch([0, 1], [1, 1], [1, 2]))
    assert losses.keys() == {"contrastive_zh", "loss"}
    torch.testing.assert_close(losses["loss"], 0.5 * losses["contrastive_zh"])


def make_own_inputs(student, number):
    """General texts and photos, and the batch that they were made of."""
    beyond = make_batch(list(range(number)), [0] * number, list(range(number)))
    maps = student.get_image_features(NORMALIZE(beyond["images"])).feature_map.detach() + 0.1
    texts = random(number, PROJECTION_DIM, seed=1)
    images = random(number, PROJECTION_DIM, seed=2)
    return beyond, {
        "general": GeneralTexts(tokens_of(beyond), texts),
        "photos": GeneralPhotos(beyond["images"], images, maps),
    }


@torch.no_grad()
def test_texts_and_images_beyond_the_data_keep_the_embeddings_of_the_teacher(
    batch, student, targets
):
    turn = rotation()
    rotate(student, turn)
    beyond, own = make_own_inputs(student, 5)
    weights = {"general_weight": 0.5, "photo_weight": 0.25, "contrastive_weight": 0.0}
    losses = make_task(student, targets, own, **weights)(batch)
    image, text = encode(student, beyond)
    maps = own["photos"].maps.flatten(1)
    of_texts = cosine_distance(text, own["general"].targets @ turn)
    of_images = cosine_distance(image, own["photos"].targets @ turn)
    of_maps = (0.1**2 / maps.square().mean(1)).mean().item()
    assert_equal(losses["general"], of_texts, rel=1e-3)
    assert_equal(losses["photos_embedding"], of_images, rel=1e-3)
    assert_equal(losses["photos_map"], of_maps, rel=1e-3)
    assert_equal(losses["loss"], 0.5 * of_texts + 0.25 * (of_images + of_maps), rel=1e-3)


@torch.no_grad()
def test_each_batch_draws_other_texts_and_images_by_its_number_and_the_seed(
    batch, student, targets
):
    _, own = make_own_inputs(student, 70)

    def draw(number, seed):
        task = make_task(student, targets, own, general_weight=1.0, photo_weight=1.0, seed=seed)
        task.before_batch(number)
        losses = task(batch)
        return {losses["general"].item(), losses["photos_embedding"].item()}

    first = draw(0, seed=0)
    assert draw(0, seed=0) == first
    assert first.isdisjoint(draw(1, seed=0))
    assert first.isdisjoint(draw(0, seed=1))


@torch.no_grad()
@pytest.mark.parametrize("num_random", [1, 9])
def test_similarities_to_class_names_follow_the_classifier(
    batch, student, targets, monkeypatch, num_random
):
    monkeypatch.setattr("training.tasks.own_inputs.NUM_DRAWN", num_random)
    targets.image = Targets(random(4, 6, 1, 1, seed=5), targets.image.embedding)
    names = make_batch(list(range(2 * 9)), [0] * 2 * 9, [0])
    weight = random(9, 6, seed=7)
    bias = random(9, seed=8)
    own = {"classes": ClassifierNames(weight, bias, tokens_of(names), batch_size=len(ROWS))}
    # all classes are encoded, if the drawn ones and those of the images can be all
    assert own["classes"].num_drawn == (9 if num_random + len(ROWS) >= 9 else num_random)
    task = make_task(student, targets, own, class_weight=0.5)
    assert not [name for name in task.state_dict() if name.startswith("own_inputs.")]
    losses = task(batch)
    logits = targets.image.feature_map.mean((2, 3)).numpy() @ weight.numpy().T + bias.numpy()
    classes = sorted({*task.draw(9, num_random).tolist(), *logits.argmax(1).tolist()})
    images = unit(encode(student, batch)[0])
    english, chinese = np.split(unit(encode(student, names)[1]), 2)
    of_english = divergence(LOGIT_SCALE * images @ english[classes].T, logits[:, classes])
    of_chinese = divergence(LOGIT_SCALE * images @ chinese[classes].T, logits[:, classes])
    assert_equal(losses["classes"], (of_english + of_chinese) / 2, rel=1e-3)


@torch.no_grad()
def test_a_frozen_image_tower_is_read_from_the_targets(batch, student, targets):
    own = student.get_image_features(NORMALIZE(batch["images"].float()))
    targets.image = Targets(own.feature_map.mean((2, 3), keepdim=True), own.pooler_output)
    expected = make_task(student)(batch)
    frozen = {"teacher": "s", "teacher_cache": "c", "freeze": ["vision_model"]}
    task = make_task(student, targets, **frozen)
    student.vision_model = None  # does not run
    assert_equal(task(batch)["loss"], expected["loss"].item())


@pytest.mark.parametrize(("before", "after"), [(10.0, np.log(100)), (-1.0, 0.0)])
def test_the_logit_scale_is_clamped_after_a_step(student, before, after):
    student.logit_scale.data.fill_(before)
    make_task(student).after_step()
    assert student.logit_scale.item() == pytest.approx(after, rel=1e-6)


@pytest.mark.parametrize(
    "text", [NO_DROPOUT, SMALL | {"model_type": "clip_text_model"}], ids=["modules", "attention"]
)
@torch.no_grad()
def test_dropout_of_the_text_tower_is_for_training_alone(batch, text):
    student = make_model(VIT, text, seed=3)

    def embed():
        torch.manual_seed(0)
        return student.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output

    plain = embed()
    task = make_task(student, dropout=0.5)
    assert torch.equal(embed(), plain)
    task.train()
    assert not torch.allclose(embed(), plain)
    config = student.config.text_config
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout")
    assert not any(getattr(config, name, 0) for name in names)  # in the exported model


def test_a_loss_without_what_it_compares_is_refused(student):
    sources = [SourceConfig(train="x", caption_columns={name: name}) for name in ("en", "zh")]
    apart = {"data": DataConfig(sources=sources), "text_text_weight": 0.5}
    for fields, message in (
        ({"anchor_weight": 0.5}, r"^anchor_weight: "),
        (apart, r"^text_text_weight: .* data\.caption_columns"),
    ):
        with pytest.raises(ValueError, match=message):
            make_task(student, **fields)
