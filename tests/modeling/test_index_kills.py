"""SIGKILL during indexing, and a disk that is really full: the index that follows equals an unbroken run."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from modeling_dcclip.index_dcclip import Index

pytestmark = pytest.mark.slow

KILLS = 4
# commits after every second file, and each file takes a while, so that a kill meets every part of the work
SLOWED = """
import sys, time
from modeling_dcclip import indexing_dcclip
from modeling_dcclip.index_dcclip import Index
indexing_dcclip.COMMIT_FILES = 2
read = indexing_dcclip._read
def slow(path, **others):
    time.sleep(0.01)
    outcome = read(path, **others)
    if outcome.vector is not None:
        print(path.decode(), flush=True)
    return outcome
indexing_dcclip._read = slow
with Index.open(sys.argv[1], sys.argv[2], create=True) as index:
    print("open", flush=True)
    index.add(sys.argv[3])
"""
FULL = """
import resource, sys
from modeling_dcclip.command import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
main(sys.argv[2:])
"""


@pytest.fixture
def many(photos, paint) -> Path:
    for number in range(60):
        paint(photos / f"{number % 7}" / f"{number}.jpg", ("red", "green", "blue")[number % 3], width=30 + number)
    (photos / "broken.jpg").write_bytes(b"no")
    return photos


def start(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SLOWED, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def content(folder: Path) -> dict[str, bytes]:
    with Index.open(folder) as index, index.catalog.reading():
        return {file.path: index.store.read(np.array([file.row])).tobytes() for file in index.catalog.files()}


def test_killed_runs_end_equal_to_an_unbroken_one(tmp_path, many, color_model):
    with Index.open(tmp_path / "whole", color_model, create=True) as index:
        expected = index.add(many)
    embedded: list[str] = []
    random.seed(0)
    for _ in range(KILLS):
        process = start(tmp_path / "killed", color_model, many)
        assert process.stdout is not None
        for line in process.stdout:  # the start of the interpreter is no part of the work
            if line.strip() == "open":
                break
        time.sleep(random.uniform(0.02, 0.25))
        process.send_signal(signal.SIGKILL)
        embedded += process.communicate()[0].split("\n")[:-1]
    process = start(tmp_path / "killed", color_model, many)
    embedded += process.communicate()[0].split("\n")[1:-1]
    assert process.returncode == 0
    assert content(tmp_path / "killed") == content(tmp_path / "whole") and len(content(tmp_path / "whole")) == 65
    # what a kill loses was not committed yet: two files, and those that are read ahead in each thread
    ahead = 2 + 4 * len(os.sched_getaffinity(0))
    assert 65 <= len(embedded) <= 65 + KILLS * ahead
    with Index.open(tmp_path / "killed") as index:
        report = index.add(many)
    assert (report.unchanged, report.failures) == (expected.found, expected.failures)


def test_a_full_disk_is_reported_and_the_run_goes_on_later(run_python, tmp_path, many, color_model):
    """A limit on the size of files is an error of the kernel, as on a full disk."""
    arguments = ["index", str(many), "--index", str(tmp_path / "index"), "--model", str(color_model)]
    run = run_python("-c", FULL, "55000", *arguments, check=False)
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert "dcclip: index: cannot write to" in run.stderr and "What was indexed before is intact" in run.stderr
    before = content(tmp_path / "index")
    assert len(before) < 65
    whole = run_python("-c", FULL, str(resource.RLIM_INFINITY), *arguments)
    assert whole.stdout.startswith("65 files in the index: ")
    assert before.items() <= content(tmp_path / "index").items()
