"""This process: its threads, memory, latency of calls, and the end of its process group.

Torch is imported inside functions, so that programs without it can use this file.
"""

import ctypes
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from accelerate import PartialState

# parameters of mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
# of a process for the others, such as for the targets of a large set
LONGEST_WAIT = timedelta(days=3)
WARM_UP = 3  # calls before the first one that is timed
Key = TypeVar("Key")


def find_processes() -> "PartialState":
    """Join the processes of `accelerate launch` or `torchrun`, and use the CPU fully."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    use_all_cores()
    keep_freed_memory()
    # without this flag, processes on a machine without an accelerator do not form a group
    is_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    group = {"timeout": LONGEST_WAIT} if int(os.environ.get("WORLD_SIZE", "1")) > 1 else {}
    return PartialState(cpu=is_cpu, **group)


def num_cores() -> int:
    """Number of processor cores that this process may use, such as those of a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores():
    """Give PyTorch all cores again, if `accelerate launch` limited this process to one.

    Unless told otherwise, `accelerate launch` sets OMP_NUM_THREADS to 1. A single process that trains on the CPU would
    leave all other cores idle. A limit that the user chose stays: OMP_NUM_THREADS in the environment of
    `accelerate launch`, or its `--num_cpu_threads_per_process`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or os.environ.get("OMP_NUM_THREADS") != "1":
        return
    import psutil

    try:
        launcher = psutil.Process(os.getppid())
        command = launcher.cmdline()
        environment = launcher.environ()
    except psutil.Error:
        return
    is_launcher = any(Path(part).name.startswith("accelerate") for part in command[:3])
    options = " ".join(command).replace("-", "_")
    is_chosen = "num_cpu_threads" in options or "OMP_NUM_THREADS" in environment
    if is_launcher and not is_chosen:
        import torch

        # PyTorch's own default, unless this process is bound to fewer cores
        torch.set_num_threads(min(psutil.cpu_count(logical=False) or 1, num_cores()))


def keep_freed_memory():
    """Keep freed memory for the next allocation, instead of returning it to the system.

    glibc unmaps every large block that is freed. On the CPU, the activations of each batch would be mapped and cleared
    again, which can take more than half of the time. The process then holds its peak memory until it ends.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def end_process_group():
    """End the process group of `torch.distributed`, if there is one, or the process may abort when it exits."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()


def interleaved_ms(
    calls: Mapping[Key, Callable[[], object]], repeats: int = 51
) -> dict[Key, list[float]]:
    """Time several calls in turn, so that other load on the machine slows down all of them alike.

    Returns:
        For each name, the latency in ms of each of `repeats` rounds, after `WARM_UP` rounds that are not counted.
    """
    times: dict[Key, list[float]] = {name: [] for name in calls}
    for number in range(WARM_UP + repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def peak_bytes() -> int:
    """Return the peak memory of this process in bytes, on Linux. `getrusage` would include its parent process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", status)[0])
