"""The kill test in short; `python -m tests.kills` is the long one."""

from tests import kills


def test_a_run_that_is_killed_ends_with_the_bytes_of_one_that_is_not(capsys):
    counts = kills.main(["--kills", "2", "--kills_in_save", "1", "--max_steps", "14"])
    assert counts.kills >= 2 and counts.in_save >= 1
    assert counts.kills == counts.resumed == counts.identical
    assert "identical endings" in capsys.readouterr().out
