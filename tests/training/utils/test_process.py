"""Memory and process group of a process."""

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
