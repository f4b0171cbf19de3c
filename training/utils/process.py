"""This process: its threads, memory, latency of calls, and the end of its process group.

Torch is imported inside functions, so that programs without it can use this file.
"""

import ctypes
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from accelerate import PartialState

log = logging.getLogger(__name__)

# parameters of mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
# how long a process waits for another one before the run ends: a node may be dead
LONGEST_WAIT = timedelta(hours=1)
BEAT_S = 5.0
WARM_UP = 3  # calls before the first one that is timed
Key = TypeVar("Key")


def find_processes() -> "PartialState":
    """Join the processes of `accelerate launch` or `torchrun`, and use the CPU fully."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    use_all_cores()
    keep_freed_memory()
    _report_lone_process()
    # without this flag, processes on a machine without an accelerator do not form a group
    is_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    group = {"timeout": LONGEST_WAIT} if int(os.environ.get("WORLD_SIZE", "1")) > 1 else {}
    return PartialState(cpu=is_cpu, **group)


@cache
def new_host_group(world: Any, purpose: str) -> Any:
    """Process group for values on the host. All processes of the world make it, in the same order."""
    import torch.distributed as dist

    return dist.new_group(backend="gloo", timeout=LONGEST_WAIT)


@contextmanager
def at_own_pace() -> Iterator[None]:
    """Do work that may take some processes much longer than others. All leave the `with` block together.

    Elsewhere a process that lets the others wait for `LONGEST_WAIT` ends the run. Here it may take days, because a
    thread tells the others every `BEAT_S` seconds that it lives. All processes call it.

    Raises:
        ConnectionError: Another process has failed, has ended or does not answer.
    """
    import torch.distributed as dist

    if not dist.is_initialized():
        yield
        return
    group = new_host_group(dist.group.WORLD, "own pace")
    finished = Event()
    succeeded: list[bool | None] = [None] * dist.get_world_size()
    own: list[bool | None] = [None]
    lost: list[Exception] = []

    def beat():
        try:
            while None in succeeded and False not in succeeded:
                finished.wait(BEAT_S)
                dist.all_gather_object(succeeded, own[0], group=group)
        except RuntimeError as error:
            lost.append(error)

    beats = Thread(target=beat, daemon=True)
    beats.start()
    try:
        yield
        own[0] = True
    finally:
        own[0] = bool(own[0])
        finished.set()
        beats.join()
    if lost or False in succeeded:
        raise ConnectionError(
            "another process of this run has ended or does not answer; its own message says why. Run the same command "
            "again."
        ) from (lost[0] if lost else None)


def use_all_cores():
    """Give PyTorch all cores again, if `accelerate launch` limited this process to one.

    Unless told otherwise, `accelerate launch` sets OMP_NUM_THREADS to 1. A single process that trains on the CPU would
    leave all other cores idle. A limit that the user chose stays: OMP_NUM_THREADS in the environment of
    `accelerate launch`, or its `--num_cpu_threads_per_process`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or os.environ.get("OMP_NUM_THREADS") != "1":
        return
    options, environment = _launch()
    if options and "num_cpu_threads" not in options and "OMP_NUM_THREADS" not in environment:
        import psutil
        import torch

        # PyTorch's own default, unless this process is bound to fewer cores
        torch.set_num_threads(min(psutil.cpu_count(logical=False) or 1, num_cores()))


def _launch() -> tuple[str, Mapping[str, str]]:
    """Command line of the `accelerate launch` that started this process, with `_` for `-`, and its environment.

    Both are empty if something else started it.
    """
    import psutil

    try:
        launcher = psutil.Process(os.getppid())
        command = launcher.cmdline()
        environment = launcher.environ()
    except psutil.Error:
        return "", {}
    if any(Path(part).name.startswith("accelerate") for part in command[:3]):
        return " ".join(command).replace("-", "_"), environment
    return "", {}


def _report_lone_process():
    """Warn if `accelerate launch` was asked for several processes and started one, as it does with `--cpu` alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    asked = re.search(r"__num_processes[ =](\d+)", _launch()[0])
    if asked is not None and int(asked[1]) > 1:
        log.warning(
            "num_processes: accelerate launch was asked for %s processes, and has started only this one. On a CPU, "
            "use --config_file training/engine/distributed/ddp_cpu.yaml instead of --cpu.",
            asked[1],
        )


def num_cores() -> int:
    """Number of processor cores that this process may use, which in a container may be fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        new_host_group.cache_clear()  # the last references, whose threads must end before the interpreter does


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
