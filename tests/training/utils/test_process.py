"""Memory and threads of a process, and keyed random numbers."""

import platform
import subprocess
import sys

import numpy as np
import pytest
import torch.distributed

from training.utils.process import end_process_group
from training.utils.rng import keyed_uniform

BLOCK = 256 * 2**20  # bytes
FREE_A_BLOCK = f"""
import numpy
from training.utils.process import keep_freed_memory

if {{keep}}:
    keep_freed_memory()
block = numpy.ones({BLOCK}, numpy.uint8)
del block
print(int(open("/proc/self/statm").read().split()[1]) * 4096)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_memory_stays_with_the_process():
    used = {}
    for keep in (True, False):
        code = FREE_A_BLOCK.format(keep=keep)
        used[keep] = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert used[True] > BLOCK > used[False]


def test_end_process_group(tmp_path):
    end_process_group()  # without a group, nothing to do
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    end_process_group()
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_accelerate_launch_does_not_limit_a_process_to_one_core(run_python, monkeypatch, tmp_path):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    (script := tmp_path / "threads.py").write_text(
        "import torch\nfrom training.utils.process import use_all_cores\n"
        "before = torch.get_num_threads()\nuse_all_cores()\nprint(before, torch.get_num_threads())\n"
    )
    default = run_python(str(script)).stdout.split()[1]
    for chosen, expected in (([], default), (["--num-cpu-threads-per-process=1"], "1")):
        launched = run_python("-m", "accelerate.commands.launch", *chosen, str(script))
        assert launched.stdout.split() == ["1", expected]


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
