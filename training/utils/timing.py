"""Latency of a call, and memory of the running process."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

WARM_UP = 3  # calls before the first one that is timed
Key = TypeVar("Key")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of torch threads within the `with` block.

    Args:
        count: Number of threads, also for code that uses `torch.get_num_threads()`.
    """
    import torch  # imported here, so that programs without torch can measure their memory with this file

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def interleaved_ms(calls: Mapping[Key, Callable[[], object]], repeats: int = 51) -> dict[Key, list[float]]:
    """Time several calls in turn, so that other load on the machine slows down all of them alike.

    Args:
        calls: Functions to time, by name.
        repeats: Number of timed rounds, after `WARM_UP` rounds that are not counted.

    Returns:
        For each name, the latency in ms of every round. Values at the same index belong to the same round.
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
    """Return the peak memory of this process in bytes.

    The value is Linux's high-water mark of this program. `getrusage` would include the memory of its parent process.

    Raises:
        OSError: If the system is not Linux.
    """
    return _status_bytes("VmHWM")


def resident_bytes() -> int:
    """Return the memory that this process holds now, in bytes.

    Raises:
        OSError: If the system is not Linux.
    """
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.findall(rf"{field}:\s+(\d+)", status)[0])
