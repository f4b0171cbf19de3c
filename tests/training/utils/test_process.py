"""Memory, threads and messages of a process, and keyed random numbers."""

import logging
import os
import platform
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch.distributed

from training.utils.process import end_process_group
from training.utils.quiet import EXECUTORCH_LINES, hide_torchao_messages, quiet_export, quiet_native
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
@pytest.mark.parametrize(
    ("chosen", "variables", "limited"),
    [
        pytest.param([], {}, False, id="by nobody"),
        pytest.param(["--num_cpu_threads_per_process", "1"], {}, True, id="by an option"),
        pytest.param(["--num-cpu-threads-per-process=1"], {}, True, id="by an option with hyphens"),
        pytest.param([], {"OMP_NUM_THREADS": "1"}, True, id="by a variable"),
    ],
)
def test_accelerate_launch_does_not_limit_a_process_to_one_core(
    run_python, monkeypatch, tmp_path, chosen, variables, limited
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (script := tmp_path / "threads.py").write_text(
        "import torch\nfrom training.utils.process import use_all_cores\n"
        "before = torch.get_num_threads()\nuse_all_cores()\nprint(before, torch.get_num_threads())\n"
    )
    default = run_python(str(script)).stdout.split()[1]
    launched = run_python("-m", "accelerate.commands.launch", *chosen, str(script), **variables)
    assert launched.stdout.split() == ["1", "1" if limited else default]


def test_known_torchao_messages_are_hidden_and_others_shown():
    hide_torchao_messages()
    for name, hidden in (
        ("torchao", "Failed to load /site-packages/torchao/_C_mxfp8.so: no such library"),
        ("torch.utils._pytree", "<enum 'E'> is. Calling register_constant() on Enum subclasses is deprecated"),
    ):
        # the filters alone: other tests may have configured the levels and handlers of these loggers
        is_shown = logging.getLogger(name).filter
        assert not is_shown(logging.makeLogRecord({"name": name, "msg": hidden}))
        assert is_shown(logging.makeLogRecord({"name": name, "msg": "something else"}))


def test_exports_hide_known_warnings_only(caplog):
    with pytest.warns(UserWarning, match="something else"), quiet_export():
        warnings.warn("# The axis name: b will not be used, since it shares the same shape constraints", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
        logging.warning("Please consider to run pre-processing before quantization. Refer to example")
        logging.warning("an unknown warning")
    assert caplog.messages == ["an unknown warning"]


def test_native_lines_are_dropped_by_pattern(capfd):
    with quiet_native(EXECUTORCH_LINES):
        os.write(2, b"[cpuinfo_utils.cpp:71] Reading file\nan error\n[threadpool.cpp:66] Resetting threadpool\n")
    assert capfd.readouterr().err == "an error\n"


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
