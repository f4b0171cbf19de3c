"""Settings of this process: the memory it holds, its threads, and the end of its process group.

Torch is imported inside functions, so that programs without it can use this file.
"""

import ctypes
import os
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # parameters of mallopt(3)


def use_cpu_fully():
    """Let CPU computations use all cores (`use_all_cores`) and reuse freed memory (`keep_freed_memory`)."""
    use_all_cores()
    keep_freed_memory()


def use_all_cores():
    """Give PyTorch all cores again, if `accelerate launch` limited this process to one.

    Unless told otherwise, `accelerate launch` sets OMP_NUM_THREADS to 1. With several processes, or with a GPU, this
    is right. A single process that trains on the CPU would leave all other cores idle. A limit that the user chose
    stays: OMP_NUM_THREADS in the environment of `accelerate launch`, or its `--num_cpu_threads_per_process`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or os.environ.get("OMP_NUM_THREADS") != "1":
        return
    import psutil

    try:
        launcher = psutil.Process().parent()
        command, environment = ([], {}) if launcher is None else (launcher.cmdline(), launcher.environ())
    except psutil.Error:
        return
    if _chose_one_core(command) and "OMP_NUM_THREADS" not in environment:
        import torch

        from modeling_dcclip.search.indexing import num_cores

        # PyTorch's own default, unless this process is bound to fewer cores
        torch.set_num_threads(min(psutil.cpu_count(logical=False) or 1, num_cores()))


def _chose_one_core(command: list[str]) -> bool:
    """Whether a command line is one of `accelerate launch`, and leaves the number of threads to it."""
    is_launcher = any(Path(part).name.startswith("accelerate") for part in command[:3])
    return is_launcher and not any("num_cpu_threads_per_process" in part.replace("-", "_") for part in command)


def keep_freed_memory():
    """Keep freed memory for the next allocation, instead of returning it to the system.

    glibc maps every large block anew and unmaps it when it is freed. On the CPU, an image tower allocates all its
    activations anew for every batch, so the system clears every page again, which can take more than half of the time.
    With this setting the process holds its peak memory until it ends. Other C libraries have no such parameters.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def end_process_group():
    """End the process group of `torch.distributed`, if there is one.

    A process that exits while the threads of its group run may abort after all its work is done.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()
