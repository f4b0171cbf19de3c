"""Memory and threads of a process, and keyed random numbers."""

import numpy as np
import pytest
import torch.distributed

from training.utils.process import end_process_group
from training.utils.rng import keyed_uniform


def test_end_process_group(tmp_path):
    end_process_group()  # without a group, nothing to do
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    end_process_group()
    assert not torch.distributed.is_initialized()


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
