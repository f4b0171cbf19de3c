"""Memory, threads and process group of a process."""

import platform
import subprocess
import sys

import pytest
import torch.distributed

from training.utils.process import end_process_group

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
