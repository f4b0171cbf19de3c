"""Short version of the kill test `python -m tests.kills`."""

import pytest

from tests import kills

pytestmark = pytest.mark.slow


def test_a_killed_and_resumed_run_gives_the_bytes_of_an_unbroken_run(capsys):
    # the harder moment: while a checkpoint is being written
    counts = kills.main(["--kills", "1", "--kills_in_save", "1", "--max_steps", "14"])
    assert counts.kills >= 1 and counts.in_save >= 1
    assert counts.kills == counts.resumed == counts.identical
    assert "with identical weights" in capsys.readouterr().out
