"""Output folders of the demo."""

import pytest

from training.demo.folders import claim_demo_folder
from training.utils.output import record_tree


def claim(folder):
    return claim_demo_folder(folder, ["aligned", "seed-1/aligned"], ["model"], ["results.json"])


def write_run(folder):
    with claim(folder):
        for name in ("model", "aligned", "seed-1/aligned"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "config.json").touch()
            record_tree(folder / name, "demo")
        (folder / "results.json").touch()


def test_a_second_run_removes_intermediate_folders_and_keeps_the_model_until_it_is_replaced(tmp_path):
    write_run(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with claim(tmp_path):
        assert not (tmp_path / "aligned").exists() and not (tmp_path / "seed-1/aligned").exists()
        assert (tmp_path / "model/config.json").exists() and (tmp_path / "notes.txt").exists()


@pytest.mark.parametrize("name", ["model", "aligned", "results.json"])
def test_a_folder_of_the_user_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"output_dir: .* has {name}, which demo did not write"), claim(tmp_path):
        pass
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["model/thesis.txt", "aligned/thesis.txt"])
def test_a_file_that_the_user_added_is_refused_before_anything_is_removed(tmp_path, name):
    write_run(tmp_path)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=r"has thesis\.txt, which no command of ours wrote"), claim(tmp_path):
        pass
    assert (tmp_path / name).exists() and (tmp_path / "aligned/config.json").exists()
