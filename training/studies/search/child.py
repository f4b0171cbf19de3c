"""Run the `dcclip` command in a process of its own, which prints its memory and its processor time at the end.

    python -m training.studies.search.child search beach --index INDEX

No torch is imported here, so the memory is that of the command.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass

from modeling_dcclip.command import main
from training.utils.timing import peak_bytes

COSTS = "costs: "


@dataclass(frozen=True)
class Finished:
    """A command that ended.

    Args:
        output: What it printed.
        seconds: Time from its start to its end, in seconds.
    """

    output: str
    seconds: float


@dataclass(frozen=True)
class Command(Finished):
    """A `dcclip` command that ended.

    Args:
        peak_bytes: Peak of its memory.
        cpu_s: Processor time of all its threads, in seconds. Other load on the machine hardly changes it.
    """

    peak_bytes: int
    cpu_s: float


def run_dcclip(*arguments: str) -> Command:
    """Run a `dcclip` command, and wait for its end.

    Raises:
        RuntimeError: It failed.
    """
    finished = run([sys.executable, "-m", "training.studies.search.child", *arguments])
    output, _, costs = finished.output.rpartition(COSTS)
    return Command(output, finished.seconds, **json.loads(costs))


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
    print(COSTS + json.dumps({"peak_bytes": peak_bytes(), "cpu_s": time.process_time()}))
