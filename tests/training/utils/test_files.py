import pytest
import torch
from safetensors.torch import save_file

from training.utils.files import (
    atomic_write,
    holds_files,
    recover_folder,
    remove_folder,
    remove_leftovers,
    replace_folder,
    scratch_folder,
    write_text,
)


def test_atomic_write_creates_the_file_at_the_end(tmp_path):
    path = tmp_path / "new" / "numbers.json"
    with atomic_write(path) as scratch:
        scratch.write_text("1", encoding="utf-8")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "1" and list(path.parent.iterdir()) == [path]


def test_failed_atomic_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "numbers.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(OSError, match="full"), atomic_write(path) as scratch:
        scratch.write_text("partial", encoding="utf-8")
        raise OSError("full")
    assert path.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [path]


def test_write_text_creates_parent_folders_and_writes_utf_8(tmp_path):
    assert not holds_files(tmp_path / "new")
    write_text(tmp_path / "new" / "text.txt", "青蛙\n")
    assert (tmp_path / "new/text.txt").read_bytes() == "青蛙\n".encode() and holds_files(tmp_path / "new")


def test_scratch_folder_starts_empty_and_is_removed(tmp_path):
    with pytest.raises(OSError, match="full"), scratch_folder(tmp_path / "model") as scratch:
        assert scratch.parent == tmp_path and not list(scratch.iterdir())
        (scratch / "partial").touch()
        raise OSError("full")
    assert not list(tmp_path.iterdir())
    with scratch_folder(tmp_path / "model") as scratch:
        (scratch / "complete").touch()
        scratch.rename(tmp_path / "finished")
    assert [path.name for path in tmp_path.rglob("*")] == ["finished", "complete"]


def test_temporary_files_never_replace_those_of_the_user(tmp_path):
    mine = [tmp_path / name for name in ("log.tmp", ".cache.tmp", "X.tmp", ".log.jsonl.dcclip")]
    for path in mine:
        path.write_text("mine")
    with atomic_write(tmp_path / "log.jsonl") as first, atomic_write(tmp_path / "log.jsonl") as second:
        assert first != second  # two writers of one file do not share a temporary file
    with scratch_folder(tmp_path / "X"):
        pass
    remove_leftovers(tmp_path)
    assert all(path.read_text() == "mine" for path in mine)


def test_leftovers_of_a_kill_are_removed_inside_and_beside_a_folder(tmp_path):
    folder = tmp_path / "run"
    (folder / "deep").mkdir(parents=True)
    with (
        scratch_folder(folder) as beside,
        scratch_folder(folder / "model") as inside,
        atomic_write(folder / "deep" / "a.json") as file,
    ):
        remove_leftovers(folder)
        assert not any(path.exists() for path in (file, beside, inside))
        file.touch()  # so that the block can end


def test_a_folder_inside_that_another_run_has_claimed_is_left_alone(tmp_path):
    other = tmp_path / "run" / "other"
    (other / ".dcclip").mkdir(parents=True)
    with atomic_write(other / "a.json") as file:
        remove_leftovers(tmp_path / "run")
        assert file.exists()


def test_replace_folder_replaces_the_old_folder(tmp_path):
    for content in ("first", "second"):
        (tmp_path / "scratch").mkdir()
        (tmp_path / "scratch" / "file").write_text(content, encoding="utf-8")
        replace_folder(tmp_path / "scratch", tmp_path / "best")
        assert (tmp_path / "best/file").read_text(encoding="utf-8") == content
        assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("has_new_folder", [False, True])
def test_recover_folder_cleans_up_after_a_kill(tmp_path, has_new_folder):
    (tmp_path / ".best.dcclip-old").mkdir()
    (tmp_path / ".best.dcclip-old/old").touch()
    if has_new_folder:
        (tmp_path / "best").mkdir()
    recover_folder(tmp_path / "best")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert (tmp_path / "best/old").exists() is not has_new_folder


def test_remove_folder_is_atomic(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    monkeypatch.setattr("shutil.rmtree", lambda path, ignore_errors: None)  # killed before the first file is removed
    remove_folder(tmp_path / "old")
    assert not (tmp_path / "old").exists()


def test_a_file_has_the_mode_of_new_files_whoever_wrote_it(tmp_path):
    (tmp_path / "new").touch()
    with atomic_write(tmp_path / "tensors.safetensors") as scratch:
        save_file({"ids": torch.zeros(1)}, scratch)
    assert (tmp_path / "tensors.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode
