"""Short version of `python -m tests.kill_matrix`: one kill with each signal."""

import signal

import pytest

from tests import kill_matrix
from tests.kill_matrix import Count, table

pytestmark = pytest.mark.slow


def test_killed_commands_end_with_the_files_of_an_unbroken_run(run_python):
    run = run_python("-m", "tests.kill_matrix", "--kills", "3", "--commands", "curate", "index")
    for command in ("curate", "index"):
        assert f"| {command} | 1 of 1 | 1 of 1 | 1 of 1 |" in run.stdout


def test_a_command_that_loses_a_file_is_found(tmp_path):
    """A command that writes its only file once, and no more after a kill."""

    def run(added: list[str]):
        output = tmp_path / "out"
        if not output.exists():
            output.mkdir()
            signal.sigtimedwait([], 0.2)
            (output / "a.txt").write_text("a")

    job = kill_matrix.Job(run, tmp_path / "out", kill_matrix.read_files)
    counts, timed = kill_matrix.try_command(job, 3, tmp_path / "log.txt")
    assert not timed and [count.equal for count in counts.values()] == [0, 0, 0]
    assert counts["SIGTERM"].differences == ["moment 1: a.txt"]


def test_the_table_has_a_row_for_each_command():
    counts = {name: vars(Count(kills=2, equal=2)) for name in ("SIGKILL", "SIGTERM", "SIGINT")}
    assert "| export | 2 of 2 | 2 of 2 | 2 of 2 |" in table({"export": counts})
