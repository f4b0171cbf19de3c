"""Error messages of the training scripts. No torch is imported here, so that option errors are reported at once."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from training.utils.cli import exit_with_usage_error, user_errors

# launchers end all other processes within a second of the first failure
GRACE_S = 10.0


@contextmanager
def stage_errors(command: str) -> Iterator[None]:
    """Turn an expected failure into one line on stderr.

    Several processes usually fail with the same error. The main process prints it, and the launcher ends the others
    before they do. An error of another process alone is printed after `GRACE_S`.

    Args:
        command: Name that the line starts with, such as `distill`.

    Raises:
        SystemExit: With code 2, if an option, the data or a model cannot be used. With code 1, if training fails
            later: the loss is not finite or the disk is full.
    """
    try:
        yield
    except ValueError as error:
        _wait_for_main_process()
        exit_with_usage_error(command, " ".join(str(error).split()))  # libraries write several lines
    except ModuleNotFoundError:
        _wait_for_main_process()
        with user_errors(command, extra="train"):
            raise
    except (OSError, FloatingPointError) as error:
        _wait_for_main_process()
        sys.exit(f"{command}: {error}")


def _wait_for_main_process():
    """Give the launcher the time to end this process, unless it is the main one. Launchers set RANK."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(GRACE_S)
