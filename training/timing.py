"""How long a call takes."""

import statistics
import time
from collections.abc import Callable

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
