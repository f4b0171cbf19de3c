from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny import make_image_processor
from training.config import AugmentConfig
from training.data import decode_image
from training.data.transforms import Augment, Normalize
from training.utils.rng import keyed_uniform

STRONG = AugmentConfig(zoom=0.4, rotate=20, stretch=0.4, shift=0.1, flip=0.5, saturation=1.0, tint=0.1, blur=0.5)
NOTHING = AugmentConfig(zoom=0, stretch=0, shift=0, brightness=0, contrast=0, saturation=0)


@pytest.fixture(scope="module")
def batch(train_rows) -> torch.Tensor:
    from datasets import Image

    cells = train_rows.cast_column("image", Image(decode=False))
    return torch.stack([decode_image(cells[row]["image"], 64) for row in range(0, 80, 10)])


IDS = torch.arange(0, 80, 10)
VIEWS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


def test_keyed_numbers_are_a_pure_function_of_their_keys():
    ids = np.arange(50)
    together = keyed_uniform(3, ids, ids % 4, num=5)
    np.random.seed(1)  # no global stream has a say
    alone = np.concatenate([keyed_uniform(3, np.array([i]), np.array([i % 4]), num=5) for i in ids])
    assert np.array_equal(together, alone)
    assert np.array_equal(keyed_uniform(3, 7, 2, num=2)[0], keyed_uniform(3, np.array([7]), 2, num=5)[0, :2])


@pytest.mark.parametrize("other", [(4, 7, 1), (3, 8, 1), (3, 7, 2), (3, 1, 7)], ids=["seed", "id", "view", "swapped"])
def test_each_key_counts_and_so_does_their_order(other):
    ours, theirs = keyed_uniform(3, 7, 1, num=4), keyed_uniform(other[0], *other[1:], num=4)
    assert not np.isclose(ours, theirs).any()


def test_keyed_numbers_are_uniform_and_independent():
    draws = keyed_uniform(0, np.arange(20000), num=4)
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.stack([np.histogram(column, bins=10, range=(0, 1))[0] for column in draws.T])
    assert np.abs(counts - 2000).max() < 6 * np.sqrt(2000 * 0.9)  # six standard deviations
    correlation = np.corrcoef(np.concatenate([draws, np.roll(draws[:, :1], 1, 0)], 1).T)  # also from row to row
    assert np.abs(correlation - np.eye(5)).max() < 0.04


def test_negative_and_large_seeds_are_allowed():
    assert 0 <= keyed_uniform(-1, 3, num=1)[0, 0] < 1
    assert keyed_uniform(2**40, 3, num=1) != keyed_uniform(2**41, 3, num=1)


def test_a_view_is_the_same_in_any_batch(batch):
    augment = Augment(STRONG, seed=1)
    together = augment(batch, IDS, VIEWS)
    order = torch.tensor([6, 1, 4])
    torch.testing.assert_close(augment(batch[order], IDS[order], VIEWS[order]), together[order])
    for number in range(8):
        alone = augment(batch[number : number + 1], IDS[number : number + 1], VIEWS[number : number + 1])
        torch.testing.assert_close(alone, together[number : number + 1])


def test_views_differ_by_number_image_and_seed(batch):
    def view(seed: int, image_id: int, number: int) -> torch.Tensor:
        return Augment(STRONG, seed)(batch[:1], torch.tensor([image_id]), torch.tensor([number]))

    first = view(1, 5, 0)
    for other in (view(2, 5, 0), view(1, 6, 0), view(1, 5, 1)):
        assert (other - first).abs().mean() > 1


def test_ranges_of_zero_leave_the_image_as_it_is(batch):
    torch.testing.assert_close(Augment(NOTHING, 0)(batch, IDS, VIEWS), batch.float(), rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    "change",
    [
        {"zoom": 0.4},
        {"rotate": 20},
        {"stretch": 0.4},
        {"shift": 0.1},
        {"flip": 1.0},
        {"brightness": 0.2},
        {"contrast": 0.5},
        {"saturation": 1.0},
        {"tint": 0.2},
        {"blur": 1.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_range_does_something_and_stays_within_pixel_values(batch, change):
    views = Augment(replace(NOTHING, **change), 0)(batch, IDS, VIEWS)
    assert (views - batch.float()).abs().mean() > 0.2
    assert views.min() >= 0 and views.max() <= 255


def test_a_certain_flip_is_the_mirror_image(batch):
    views = Augment(replace(NOTHING, flip=1.0), 0)(batch, IDS, VIEWS)
    torch.testing.assert_close(views, batch.float().flip(3), rtol=0, atol=1e-2)


def test_autocast_rounds_nothing(batch):
    augment = Augment(STRONG, 0)
    with torch.autocast("cpu", torch.bfloat16):
        found = augment(batch, IDS, VIEWS)
    assert found.dtype == torch.float32 and torch.equal(found, augment(batch, IDS, VIEWS))


def test_a_warp_uncovers_the_background(batch):
    views = Augment(replace(NOTHING, shift=0.5, background=17), 0)(batch, IDS, VIEWS)
    edges = torch.stack([views[:, :, 0], views[:, :, -1], views[:, :, :, 0], views[:, :, :, -1]])
    # two of the four sides are uncovered in every image
    assert ((edges - 17).abs().amax((2, 3)) < 0.5).sum(0).ge(2).all()


def test_normalise_equals_the_image_processor_at_its_size(batch, images):
    processor = make_image_processor()
    expected = processor(images, return_tensors="pt")["pixel_values"]
    ours = Normalize.from_processor(processor, 64)(batch)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_normalise_resizes_close_to_the_image_processor(batch, images):
    processor = make_image_processor(48)
    expected = processor(images, return_tensors="pt")["pixel_values"]
    ours = Normalize.from_processor(processor, 48)(batch)
    assert ours.shape == expected.shape
    assert (ours - expected).abs().mean() < 0.02  # the processor rounds to whole pixel values in between
