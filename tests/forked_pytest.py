"""Run pytest on a copy of the project, in a fork of a process that has imported the libraries."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("modeling_dcclip", "tests", "training")
TIMEOUT_S = 240
NOTICED, MISSED, TIMED_OUT = "noticed", "missed", "timed out"


@contextmanager
def copy_tracked() -> Iterator[Path]:
    """Copy the tracked files to a temporary repository, which some tests list."""
    command = ["git", "ls-files", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="dcclip-mutants-") as scratch:
        folder = Path(scratch, "project")
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        for command in (["git", "init", "-q"], ["git", "add", "-A"]):
            subprocess.run(command, cwd=folder, check=True)
        yield folder


class Selection:
    """A pytest plugin that keeps given tests, in their order.

    Args:
        tests: IDs without parameters, because a fault can change the parameters' names.
    """

    def __init__(self, tests: Sequence[str]):
        self.places = {test: place for place, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]):
        kept = [item for item in items if function_of(item.nodeid) in self.places]
        items[:] = sorted(kept, key=lambda item: self.places[function_of(item.nodeid)])


def function_of(test: str) -> str:
    """ID of a test without its parameters."""
    return test.split("[")[0]


def run_pytest(tests: Sequence[str], folder: Path) -> str:
    """Run tests on a copy of the project: whether they notice a fault, miss it, or do not end."""
    if not tests:
        return MISSED
    files = dict.fromkeys(test.split("::")[0] for test in tests)
    process = fork_pytest(["-x", "--assert=plain", *files], [Selection(tests)], folder)
    deadline = time.monotonic() + TIMEOUT_S
    while (ended := os.waitpid(process, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return TIMED_OUT
        time.sleep(0.05)
    code = os.waitstatus_to_exitcode(ended[1])
    return MISSED if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else NOTICED


def library_caches(folder: Path) -> Path:
    """Folder of what the libraries of this process keep, next to a copy; each fork finds it empty."""
    return folder.with_name("caches")


def fork_pytest(arguments: list[str], plugins: list[object], folder: Path) -> int:
    """Start pytest in a fork; its output goes to a log next to the folder. Returns its process ID."""
    shutil.rmtree(library_caches(folder), ignore_errors=True)
    process = os.fork()
    if process:
        return process
    os.setpgrp()
    log = os.open(f"{folder}.log", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.path[:] = [str(folder), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]  # they come from the folder
    code = 3
    try:
        code = int(pytest.main(["-q", "-p", "no:cacheprovider", *arguments], plugins))
    finally:
        os._exit(code)
