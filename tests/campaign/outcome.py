"""Outcomes of a case: what a user sees after a bad input, and whether it is what they should see."""

import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

LIMIT_S = 20  # of one case
# the start of a clear message: the field, option or file that is wrong
NAMED = re.compile(r"^[\w.'/-][\w .'/\[\]*-]*(:| is | has | seems | cannot | names | was | exists)")
MAX_CHARACTERS = 1500

RIGHT, CLEAR = "handled", "clear"
EITHER = "either"  # of an expected outcome
UNCLEAR, SILENT, LOST, HANG, HOLE = "unclear", "silent", "lost", "hang", "hole"
OUTCOMES = (CLEAR, RIGHT, UNCLEAR, SILENT, LOST, HANG, HOLE)
FAULTS = (UNCLEAR, SILENT, LOST, HANG, HOLE)


class Lost(AssertionError):
    """A file of the user was changed or removed."""


class Hole(AssertionError):
    """Something was run, read or sent that must not be."""


class TooLong(BaseException):
    """The case took longer than `LIMIT_S`. It is no `Exception`, so that no handler hides it."""


@dataclass(frozen=True)
class Case:
    """One bad input or fault.

    Args:
        group: Class of the case, a row of the table.
        name: Name of the case within its class.
        run: Function that does what the user does, in an empty folder. It raises `Lost` or `Hole` if it finds one.
        expected: `clear` for an error with a clear message, `handled` for no error, and `either`.
    """

    group: str
    name: str
    run: Callable[[Path], object]
    expected: str


def judge(case: Case) -> tuple[str, str]:
    """Run a case.

    Returns:
        Its outcome, one of `OUTCOMES`, and the message if it is a fault.
    """
    with tempfile.TemporaryDirectory(prefix="dcclip-campaign-") as folder:
        try:
            with _time_limit():
                case.run(Path(folder))
        except Lost as error:
            return LOST, str(error)
        except Hole as error:
            return HOLE, str(error)
        except TooLong:
            return HANG, f"more than {LIMIT_S} s"
        except ValueError as error:
            message = str(error)
            is_clear = NAMED.match(message) and len(message) < MAX_CHARACTERS and "Traceback" not in message
            if not is_clear:
                return UNCLEAR, f"{type(error).__name__}: {message}"
            return (CLEAR, "") if case.expected != RIGHT else (UNCLEAR, f"refused, although it is right: {message}")
        except Exception as error:
            return UNCLEAR, f"{type(error).__name__}: {error}"
    return (SILENT, "accepted") if case.expected == CLEAR else (RIGHT, "")


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None):
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
