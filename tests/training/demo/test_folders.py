"""Output folders of the demo."""

import pytest

from training.demo.folders import OwnFolders


def test_folders_of_an_earlier_run_are_removed(tmp_path):
    OwnFolders(tmp_path / "out").claim(["model", "seed-1/aligned"])
    (tmp_path / "out" / "model").mkdir()
    (tmp_path / "out" / "seed-1" / "aligned").mkdir(parents=True)
    (tmp_path / "out" / "notes.txt").write_text("my own file")
    OwnFolders(tmp_path / "out").claim(["model", "seed-1/aligned", "untrained"])
    assert not (tmp_path / "out" / "model").exists() and not (tmp_path / "out" / "seed-1" / "aligned").exists()
    assert (tmp_path / "out" / "notes.txt").exists()


def test_other_folders_are_kept_and_raise_an_error(tmp_path):
    OwnFolders(tmp_path).claim(["model"])
    (tmp_path / "model").mkdir()
    (tmp_path / "aligned").mkdir()
    with pytest.raises(ValueError, match=r"output_dir: .*aligned' was not written by the demo"):
        OwnFolders(tmp_path).claim(["model", "aligned"])
    assert (tmp_path / "model").exists() and (tmp_path / "aligned").exists()
