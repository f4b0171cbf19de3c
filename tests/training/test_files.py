import pytest

from training.files import scratch_folder, whole_file


def test_a_file_becomes_what_it_is_called_at_the_end(tmp_path):
    path = tmp_path / "new" / "numbers.json"
    with whole_file(path) as scratch:
        scratch.write_text("1", encoding="utf-8")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "1" and list(path.parent.iterdir()) == [path]


def test_a_file_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "numbers.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(OSError, match="full"), whole_file(path) as scratch:
        scratch.write_text("half", encoding="utf-8")
        raise OSError("full")
    assert path.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [path]


def test_a_scratch_folder_begins_empty_and_leaves_nothing(tmp_path):
    (tmp_path / ".tmp").mkdir()
    (tmp_path / ".tmp" / "of an earlier run").touch()
    with pytest.raises(OSError, match="full"), scratch_folder(tmp_path / ".tmp") as scratch:
        assert not list(scratch.iterdir())
        (scratch / "half").touch()
        raise OSError("full")
    assert not list(tmp_path.iterdir())
    with scratch_folder(tmp_path / ".tmp") as scratch:
        (scratch / "whole").touch()
        scratch.rename(tmp_path / "finished")
    assert [path.name for path in tmp_path.rglob("*")] == ["finished", "whole"]
