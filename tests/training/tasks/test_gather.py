"""One batch of 32 = 2 processes x 16 = 4 chunks of 8 = 2 processes x 2 chunks of 8: the loss and every gradient."""

from functools import cache, partial
from itertools import product

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

from tests.tiny import (
    IMAGE_SIZE,
    NO_DROPOUT,
    PROJECTION_DIM,
    VIT,
    XLM_ROBERTA,
    make_model,
)
from tests.training.tasks.hand_made import random
from training.config import AlignRecipe, AugmentConfig, DataConfig
from training.data import CaptionTokenizer, PairDataset, tokenize
from training.data.images import Augment, Normalize
from training.tasks import AlignTask
from training.tasks.own_inputs import ClassifierNames, GeneralPhotos, GeneralTexts
from training.tasks.task import forward_backward
from training.teachers import TOWERS
from training.teachers.targets import LiveTargets, TargetSpec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]

BATCH = 32
CHUNK = 8
HALF = BATCH // 2
ALL_LOSSES = {
    "text_text_weight": 0.5,
    "anchor_weight": 2.0,
    "general_weight": 0.4,
    "photo_weight": 0.6,
    "class_weight": 0.8,
}
RECIPES = {
    "infonce": {},
    "all losses": ALL_LOSSES,
}


@pytest.fixture(scope="module")
def dataset(train_rows, tokenizer):
    """Real images. Some have only a Chinese caption, two English captions in turn, or the caption of another image."""
    rows = train_rows.select(range(BATCH))
    english = [[text, f"a {text}"] for text in rows["en"]]
    english[20] = english[23] = english[26] = []
    english[25] = english[3]
    rows = rows.remove_columns("en").add_column("en", english)
    config = DataConfig(train="", in_memory=True)
    return PairDataset(rows, config, CaptionTokenizer(tokenizer, 32), IMAGE_SIZE)


@pytest.fixture(scope="module")
def make_batch(dataset):
    """Function that makes the batch or a part of it.

    Rows 0 to 5 occur twice, in two views and so with two captions.
    """
    keys = [(row, 0) for row in range(BATCH - 6)] + [(row, 1) for row in range(6)]

    def make(start=0, stop=BATCH):
        samples = [(row, view, view, dataset[row]) for row, view in keys[start:stop]]
        batch = dataset.collate(samples)
        batch.pop("skipped")
        return batch

    return make


@pytest.fixture(scope="module")
def make_task(teacher, dataset):
    def make(vision=VIT, text=NO_DROPOUT, **fields):
        model = make_model(vision, text, seed=3)
        recipe = AlignRecipe(output_dir="", student="s", data=dataset.config, **fields)
        normalize = Normalize.from_processor(teacher.image_processor, IMAGE_SIZE)
        targets = LiveTargets(teacher, TargetSpec(TOWERS, (1, 1)))
        augment = Augment(AugmentConfig(), 0)
        own = make_own_inputs(teacher) if recipe.general_weight else {}
        task = AlignTask(model, augment, normalize, targets, recipe, own)
        task.train()
        return task

    return make


@cache
def make_own_inputs(teacher):
    """General texts, images with the maps of a model unlike the student, and a classifier of 300 classes."""
    tokens = tokenize(teacher.tokenizer, [f"名字 name {number}" for number in range(600)], 32)
    images = 255 * random(64, 3, IMAGE_SIZE, IMAGE_SIZE).sigmoid()
    grid = IMAGE_SIZE // VIT["patch_size"]
    maps = random(64, VIT["hidden_size"], grid, grid)
    embeddings = random(600, PROJECTION_DIM)
    weight = random(300, teacher.vision_width)
    return {
        "general": GeneralTexts(tokens, embeddings),
        "photos": GeneralPhotos(images.to(torch.uint8), embeddings[:64], maps.half()),
        "classes": ClassifierNames(weight, embeddings[:300, 0], tokens, BATCH),
    }


def prepared(task):
    accelerator = Accelerator(cpu=True)
    return accelerator, accelerator.prepare(task)


def gradients(task, batch):
    """The losses, and the gradients of all parameters by name, of one pass of this process."""
    accelerator, model = prepared(task)
    losses = forward_backward(model, task, task.augmented(batch), accelerator)
    found = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    return found | {f"loss/{name}": accelerator.reduce(losses[name], "mean") for name in losses}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    largest = max(value.abs().max().item() for value in expected.values() if value.ndim)
    for name, value in expected.items():
        atol = 1e-6 * (largest if value.ndim else 1.0)
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=atol, msg=partial("{0}: {1}".format, name)
        )


@pytest.fixture(scope="module")
def whole(make_task, make_batch):
    """Losses and gradients of one process with the whole batch at once, by recipe."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return {name: gradients(make_task(**fields), make_batch()) for name, fields in RECIPES.items()}


@pytest.fixture(scope="module")
def two_processes(make_task, make_batch, tmp_path_factory):
    """Losses and gradients of two processes with half of the batch each, at once and in chunks."""
    folder = tmp_path_factory.mktemp("two")

    def work():
        torch.set_num_threads(1)
        rank = Accelerator(cpu=True).process_index
        batch = make_batch(rank * HALF, (rank + 1) * HALF)
        for name, size in product(RECIPES, (0, CHUNK)):
            found = gradients(make_task(**RECIPES[name], chunk_size=size), batch)
            save_file(found, folder / f"{name}, {size}, {rank}.safetensors")

    AcceleratorState._reset_state(reset_partial_state=True)
    debug_launcher(work)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_chunks_give_the_loss_and_the_gradients_of_the_whole_batch(
    whole, make_task, make_batch, name
):
    task = make_task(**RECIPES[name], chunk_size=CHUNK)
    assert_same(gradients(task, make_batch()), whole[name])


@pytest.mark.parametrize("size", [0, CHUNK])
@pytest.mark.parametrize("name", RECIPES)
def test_processes_give_the_loss_and_the_gradients_of_the_whole_batch(
    whole, two_processes, name, size
):
    for rank in (0, 1):
        assert_same(load_file(two_processes / f"{name}, {size}, {rank}.safetensors"), whole[name])


def test_dropout_is_the_same_in_both_passes_of_a_chunk(whole, make_task, make_batch):
    batch = make_batch()
    runs = []
    for _ in range(2):
        task = make_task(text=XLM_ROBERTA, **RECIPES["all losses"], chunk_size=CHUNK)
        torch.manual_seed(5)
        runs.append(gradients(task, batch))
    assert all(torch.equal(runs[0][name], value) for name, value in runs[1].items())
    assert runs[0]["loss/loss"] != whole["all losses"]["loss/loss"]  # without dropout
