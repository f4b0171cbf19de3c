"""Error messages of the training scripts. No torch is imported here, so that option errors are reported at once."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from training.utils.cli import one_line, user_errors

# launchers end all other processes within a second of the first failure
GRACE_S = 10.0
ERROR_FILE_VARIABLE = "TORCHELASTIC_ERROR_FILE"  # set by torchrun and accelerate for each process


@contextmanager
def stage_errors(command: str, extra: str = "train") -> Iterator[None]:
    """Turn an expected failure into one line on stderr, as `user_errors` does.

    Several processes usually fail with the same error. The main process prints it, and the launcher ends the others
    before they do. An error of another process alone is printed after `GRACE_S`. The launcher prints its own summary
    last, and this function puts the message into it.

    Args:
        command: Name that the line starts with, such as `distill`.
        extra: Extra of this project that installs the packages of the command.

    Raises:
        SystemExit: With code 2, if an option, the data or a model cannot be used. With code 1, if training fails
            later: the loss is not finite or the disk is full.
    """
    with user_errors(command, extra=extra):
        try:
            yield
        except (ValueError, ModuleNotFoundError, OSError, FloatingPointError) as error:
            _wait_for_main_process()
            _tell_launcher(f"{command}: {one_line(error)}")
            raise


def _wait_for_main_process():
    """Give the launcher the time to end this process, unless it is the main one. Launchers set RANK."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(GRACE_S)


def _tell_launcher(message: str):
    if path := os.environ.get(ERROR_FILE_VARIABLE):
        with suppress(OSError):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            content = {"message": {"message": message, "extraInfo": {"py_callstack": message, "timestamp": "0"}}}
            Path(path).write_text(json.dumps(content), encoding="utf-8")
