"""SIGKILL during indexing (short version of `python -m tests.kills --indexing`), and a disk that is really full."""

import resource
from pathlib import Path

import numpy as np
import pytest

from modeling_dcclip.index_dcclip import Index
from tests import kills
from training.utils.results import Results

pytestmark = pytest.mark.slow

KILLS = 3
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


def vectors(folder: Path) -> dict[str, bytes]:
    with Index.open(folder) as index, index.catalog.reading():
        return {file.path: index.store.read(np.array([file.row])).tobytes() for file in index.catalog.files()}


def test_killed_runs_end_equal_to_an_unbroken_one(capsys, tmp_path):
    counts = kills.main(["--indexing", "--kills", str(KILLS), "--output_dir", str(tmp_path)])
    assert counts.kills == counts.identical == KILLS and counts.is_good
    assert f"{KILLS} kills during indexing, {KILLS} identical indexes" in capsys.readouterr().out
    written = {row.metric: row.value for row in Results.read(tmp_path / "results.json").rows}
    assert written["identical"] == KILLS and written["most_repeated"] == max(counts.repeated)


def test_a_full_disk_is_reported_and_the_run_goes_on_later(run_python, tmp_path, many, color_model):
    """A limit on the size of files is an error of the kernel, as on a full disk."""
    arguments = ["index", str(many), "--index", str(tmp_path / "index"), "--model", str(color_model)]
    run = run_python("-c", FULL, "55000", *arguments, check=False)
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert "dcclip: index: cannot write to" in run.stderr and "What was indexed before is intact" in run.stderr
    before = vectors(tmp_path / "index")
    assert len(before) < 65
    whole = run_python("-c", FULL, str(resource.RLIM_INFINITY), *arguments)
    assert whole.stdout.startswith("65 files in the index: ")
    assert before.items() <= vectors(tmp_path / "index").items()
