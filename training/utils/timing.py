"""How long a call takes, on how many threads, and how large a process became."""

import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

WARM_UP = 3
Key = TypeVar("Key")


def median_ms(call: Callable[[], object], repeats: int = 15) -> float:
    """Median milliseconds of a call, after a few that do not count.

    Args:
        call: what is timed.
        repeats: at least 1.
    """
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(times), 2)


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Let torch, and what asks it for their number, work on `count` threads meanwhile."""
    import torch  # not above: programs without it, whose memory is measured, read this file

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_bytes() -> int:
    """The most memory that this program has held at once.

    Linux keeps this high-water mark for the program itself, while getrusage also counts what its parent was.

    Raises:
        OSError: not on Linux.
    """
    return _status_bytes("VmHWM")


def resident_bytes() -> int:
    """The memory that this program holds now.

    Raises:
        OSError: not on Linux.
    """
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.findall(rf"{field}:\s+(\d+)", status)[0])


def interleaved_ms(calls: Mapping[Key, Callable[[], object]], repeats: int = 51) -> dict[Key, list[float]]:
    """Milliseconds of several calls, in turns, so that whatever else the machine does slows all of them alike.

    Args:
        calls: by name.
        repeats: rounds, after a few that do not count.

    Returns:
        For each name its times, in the order of the rounds: those of one position belong together.
    """
    times: dict[Key, list[float]] = {name: [] for name in calls}
    for turn in range(WARM_UP + repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - began))
    return times
