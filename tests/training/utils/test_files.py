import pytest

from training.utils.files import atomic_write, recover_folder, remove_folder, replace_folder, scratch_folder


def test_a_file_becomes_what_it_is_called_at_the_end(tmp_path):
    path = tmp_path / "new" / "numbers.json"
    with atomic_write(path) as scratch:
        scratch.write_text("1", encoding="utf-8")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "1" and list(path.parent.iterdir()) == [path]


def test_a_file_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "numbers.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(OSError, match="full"), atomic_write(path) as scratch:
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


def test_a_folder_that_is_put_takes_the_place_of_the_old_one(tmp_path):
    for content in ("first", "second"):
        (tmp_path / "scratch").mkdir()
        (tmp_path / "scratch" / "file").write_text(content, encoding="utf-8")
        replace_folder(tmp_path / "scratch", tmp_path / "best")
        assert (tmp_path / "best/file").read_text(encoding="utf-8") == content
        assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("is_new_there", [False, True])
def test_a_put_that_was_killed_is_ended(tmp_path, is_new_there):
    (tmp_path / ".best.old").mkdir()
    (tmp_path / ".best.old/old").touch()
    if is_new_there:
        (tmp_path / "best").mkdir()
    recover_folder(tmp_path / "best")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert (tmp_path / "best/old").exists() is not is_new_there


def test_a_removed_folder_is_gone_before_its_files_are(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    monkeypatch.setattr("shutil.rmtree", lambda path, ignore_errors: None)  # killed before the first file is removed
    remove_folder(tmp_path / "old")
    assert not (tmp_path / "old").exists()
