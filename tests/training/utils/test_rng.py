import numpy as np
import pytest

from training.utils.rng import keyed_uniform


def test_numbers_are_a_pure_function_of_seed_and_keys():
    ids = np.arange(50)
    together = keyed_uniform(3, ids, ids % 4, num=5)
    np.random.seed(1)  # the global generator has no influence
    alone = np.concatenate([keyed_uniform(3, np.array([i]), np.array([i % 4]), num=5) for i in ids])
    assert np.array_equal(together, alone)
    assert np.array_equal(keyed_uniform(3, 7, 2, num=2)[0], keyed_uniform(3, np.array([7]), 2, num=5)[0, :2])


@pytest.mark.parametrize("other", [(4, 7, 1), (3, 8, 1), (3, 7, 2), (3, 1, 7)], ids=["seed", "id", "view", "swapped"])
def test_numbers_depend_on_every_key_and_on_their_order(other):
    assert not np.isclose(keyed_uniform(3, 7, 1, num=4), keyed_uniform(other[0], *other[1:], num=4)).any()


def test_numbers_are_uniform_and_independent():
    draws = keyed_uniform(0, np.arange(20000), num=4)
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.stack([np.histogram(column, bins=10, range=(0, 1))[0] for column in draws.T])
    assert np.abs(counts - 2000).max() < 6 * np.sqrt(2000 * 0.9)  # six standard deviations
    correlation = np.corrcoef(np.concatenate([draws, np.roll(draws[:, :1], 1, 0)], 1).T)  # also between rows
    assert np.abs(correlation - np.eye(5)).max() < 0.04


def test_negative_and_large_seeds_are_allowed():
    assert 0 <= keyed_uniform(-1, 3, num=1)[0, 0] < 1
    assert keyed_uniform(2**40, 3, num=1) != keyed_uniform(2**41, 3, num=1)
