"""Memory and threads of a process."""

import platform
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch.distributed

from training.utils.process import (
    WARM_UP,
    end_process_group,
    find_processes,
    interleaved_ms,
)

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
def test_freed_memory_stays_with_the_process(run_python):
    used = [int(run_python("-c", FREE_A_BLOCK.format(keep=keep)).stdout) for keep in (True, False)]
    assert used[0] > BLOCK > used[1]


def test_calls_take_turns_and_the_first_rounds_do_not_count(monkeypatch):
    called = []
    seconds = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds) / 4)
    calls = {name: partial(called.append, name) for name in "ab"}
    assert interleaved_ms(calls, 3) == {"a": [250.0] * 3, "b": [250.0] * 3}
    assert called == ["a", "b"] * (WARM_UP + 3)


def test_a_single_process_forms_no_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert find_processes().num_processes == 1
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("command", "world", "is_reported"),
    [
        ("python -m accelerate.commands.launch --num_processes 2 --cpu", "1", True),
        ("python bin/accelerate launch --num-processes=8 --cpu", "1", True),
        ("python bin/accelerate launch --num_processes 2 --multi_gpu", "2", False),
        ("python bin/accelerate launch --num_processes 1 --cpu", "1", False),
    ],
)
def test_a_launch_that_starts_fewer_processes_than_it_was_asked_for_says_so(
    monkeypatch, caplog, command, world, is_reported
):
    launcher = SimpleNamespace(cmdline=command.split, environ=dict)
    monkeypatch.setattr("psutil.Process", lambda _: launcher)
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setattr("accelerate.PartialState", lambda **_: None)
    find_processes()
    assert ("this one. On a CPU, use --config_file" in caplog.text) is is_reported


def test_end_process_group(tmp_path):
    end_process_group()  # without a group, nothing to do
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
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
