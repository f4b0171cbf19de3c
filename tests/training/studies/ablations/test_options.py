import pytest

from training.studies.ablations import pairs


def test_scratch_folder_with_files_is_refused_and_keeps_them(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        pairs.main(["--output_dir", str(tmp_path)])
    assert f"output_dir: {str(tmp_path)!r} is not empty" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "mine"
