"""Run the `dcclip` command in a process of its own, which prints the peak of its memory at the end.

    python -m training.studies.search.child search beach --index INDEX

No torch is imported here, so the memory is that of the command.
"""

import subprocess
import sys
import time
from dataclasses import dataclass

from modeling_dcclip.command import main
from training.utils.timing import peak_bytes

PEAK = "peak bytes: "


@dataclass(frozen=True)
class Finished:
    """A command that ended.

    Args:
        output: What it printed.
        seconds: Time from its start to its end, in seconds.
    """

    output: str
    seconds: float


def run_dcclip(*arguments: str) -> tuple[Finished, int]:
    """Run the command, and return its end with the peak of its memory in bytes.

    Raises:
        RuntimeError: It failed.
    """
    finished = run([sys.executable, "-m", "training.studies.search.child", *arguments])
    output, _, peak = finished.output.rpartition(PEAK)
    return Finished(output, finished.seconds), int(peak)


def run(command: list[str], **options: object) -> Finished:
    """Run a command, and wait for its end.

    Args:
        command: The command and its arguments.
        options: More arguments of `subprocess.run`.

    Raises:
        RuntimeError: It failed.
    """
    start = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    seconds = time.perf_counter() - start
    if ended.returncode:
        raise RuntimeError(f"{command[0]} ended with code {ended.returncode}: {ended.stderr.strip()[-500:]}")
    return Finished(ended.stdout, seconds)


if __name__ == "__main__":
    main()
    print(f"{PEAK}{peak_bytes()}")
