"""What a run says when its processes no longer answer each other."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from training.utils.cli import LOST_PROCESS, one_line
from training.utils.process import AT_OWN_PACE, LONGEST_WAIT

log = logging.getLogger(__name__)


@contextmanager
def name_standstill(run: str, position: Callable[[], int]) -> Iterator[None]:
    """Name the run and its step when another of its processes has ended or no longer answers.

    After `LONGEST_WAIT` torch ends a process that waits for another one. Through gloo it raises an error, which gets
    the name and the step. NCCL ends the process itself, so a thread warns before.

    Args:
        run: Name of the run.
        position: Function that returns the number of steps done.

    Raises:
        ConnectionError: Another process has ended or no longer answers.
    """
    is_over = Event()

    def watch():
        period = 0.45 * LONGEST_WAIT  # two of them pass before torch ends the process
        seen = None
        while not is_over.wait(period.total_seconds()):
            if AT_OWN_PACE.is_set():  # an evaluation may take longer than a step may
                seen = None
                continue
            done = position()
            if done == seen:
                log.error(
                    "%s: step %d has not ended for %s. Another process or node of the run may be dead; after %s of "
                    "waiting, this process ends.",
                    run,
                    done + 1,
                    period,
                    LONGEST_WAIT,
                )
            seen = done

    Thread(target=watch, daemon=True).start()
    try:
        yield
    except RuntimeError as error:
        if LOST_PROCESS.search(str(error)) is None:
            raise
        raise ConnectionError(
            f"{run}: at step {position() + 1}, another process or node of the run has ended or no longer answers "
            f"({one_line(error)}). Its own message says why. Continue from the last checkpoint with --resume."
        ) from error
    finally:
        is_over.set()
