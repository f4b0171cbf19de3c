"""Settings of this process: the memory it holds, and the end of its process group. No torch is imported here."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # parameters of mallopt(3)


def keep_freed_memory():
    """Keep freed memory for the next allocation, instead of returning it to the system.

    glibc maps every large block anew and unmaps it when it is freed. On the CPU, an image tower allocates all its
    activations anew in every step, so the system clears every page again, which can take half of the step. With this
    setting the process holds its peak memory until it ends. Other C libraries have no such parameters.
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
