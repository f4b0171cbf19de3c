"""How long a call takes, and how large a process became."""

import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

WARM_UP = 3


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


def peak_bytes() -> int:
    """The most memory that this program has held at once.

    Linux keeps this high-water mark for the program itself, while getrusage also counts what its parent was.

    Raises:
        OSError: not on Linux.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", status)[0])
