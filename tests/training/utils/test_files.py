"""Atomic writes; output folders, where files of the user are never overwritten and two runs never write at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import ROOT
from training.utils.files import (
    atomic_write,
    recover_folder,
    relative_path,
    remove_folder,
    remove_leftovers,
    replace_folder,
    scratch_folder,
)
from training.utils.output import (
    check_replaceable,
    claim_folder,
    record_tree,
    recorded_names,
)

NAMES = ("README.md", "model.safetensors")


def test_an_atomic_write_replaces_the_file_at_the_end_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "numbers.json"
    with atomic_write(path) as scratch:
        scratch.write_text("1", encoding="utf-8")
        assert not path.exists()
    with pytest.raises(OSError, match="full"), atomic_write(path) as scratch:
        scratch.write_text("partial", encoding="utf-8")
        raise OSError("full")
    with pytest.raises(OSError, match="full"), scratch_folder(path):
        raise OSError("full")
    assert path.read_text(encoding="utf-8") == "1" and list(path.parent.iterdir()) == [path]


def test_a_folder_is_replaced_by_files_that_are_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}"))
    )
    old, new = tmp_path / "model", tmp_path / "new"
    for folder in (old, new):
        (folder / "onnx").mkdir(parents=True)
        (folder / "onnx" / folder.name).write_text("")
        (folder / "onnx" / folder.name).chmod(0o600)
    replace_folder(new, old)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in (old / "onnx").iterdir()] == ["new"]
    assert (old / "onnx" / "new").stat().st_mode & 0o777 == old.stat().st_mode & 0o666
    assert synced == [str(new / "onnx" / "new"), str(new / "onnx"), str(new), str(tmp_path)]


def test_temporary_files_never_replace_those_of_the_user(tmp_path):
    mine = [tmp_path / name for name in ("log.tmp", ".cache.tmp", ".log.jsonl.dcclip")]
    for path in mine:
        path.touch()
    with atomic_write(tmp_path / "log.jsonl") as first, atomic_write(first) as second:
        assert first != second  # two writers of one file do not share a temporary file
    remove_leftovers(tmp_path)
    assert all(path.exists() for path in mine)


def test_leftovers_of_a_kill_are_removed_inside_and_beside_a_folder(tmp_path):
    folder = tmp_path / "run"
    (folder / "deep").mkdir(parents=True)
    with (
        scratch_folder(folder) as beside,
        scratch_folder(folder / "model") as inside,
        scratch_folder(tmp_path / "run.2") as other,
        atomic_write(folder / "deep" / "a.json") as file,
    ):
        remove_leftovers(folder)
        assert not any(path.exists() for path in (file, beside, inside)) and other.exists()
        file.touch()  # so that the block can end


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
    monkeypatch.setattr(
        "shutil.rmtree", lambda path, ignore_errors: None
    )  # killed before the first file is removed
    remove_folder(tmp_path / "old")
    assert not (tmp_path / "old").exists()


def test_a_path_of_this_machine_becomes_relative(tmp_path, monkeypatch):
    (here := tmp_path / "project").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(Path, "home", lambda: Path("/opt/me"))
    for name, expected in (
        (here / "runs/a", "runs/a"),
        (tmp_path / "data/a.parquet", "../data/a.parquet"),
        ("/opt/me/data/*.tar", "~/data/*.tar"),
        ("/srv/data/a.parquet", "<elsewhere>/a.parquet"),
        ("/", "/"),
        ("some/id", "some/id"),
        ("module:function", "module:function"),
    ):
        assert relative_path(str(name)) == expected


def claim(folder, **options):
    return claim_folder(folder, NAMES, command="distill", **options)


def write_model(folder, **options):
    with claim(folder, **options):
        for name in NAMES:
            (folder / name).write_text("model")


def test_a_file_of_the_user_is_refused_by_name(tmp_path):
    mine = tmp_path / NAMES[1]
    mine.write_text("mine")
    with pytest.raises(ValueError, match=r"has model.safetensors, which distill did not .*--over"):
        write_model(tmp_path)
    assert list(tmp_path.iterdir()) == [mine] and mine.read_text() == "mine"
    write_model(tmp_path, overwrite=True)
    assert mine.read_text() == "model"


@pytest.mark.parametrize("name", ["", "file", "~/models"])
def test_a_name_of_no_folder_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"^output_dir: '{name}' is not a folder"):
        write_model(name, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_own_files_are_replaced_by_the_same_command_only(tmp_path):
    for _ in range(2):
        write_model(tmp_path)
    with (
        pytest.raises(ValueError, match="which export did not write"),
        claim_folder(tmp_path, ["README.md"], command="export"),
    ):
        pass


def test_names_that_were_not_written_are_not_recorded(tmp_path):
    with claim(tmp_path):
        (tmp_path / "README.md").write_text("model")
    assert recorded_names(tmp_path) == {"README.md": "distill"}
    (tmp_path / "model.safetensors").write_text("mine")  # by the user, later
    with pytest.raises(ValueError, match=r"has model\.safetensors"):
        write_model(tmp_path)


def test_a_refused_or_failed_run_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "new"
    with pytest.raises(ValueError, match="teacher"), claim(folder):
        raise ValueError("teacher: does not exist.")
    assert not folder.exists()
    (tmp_path / "notes.txt").write_text("mine")
    with claim(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("output", "read"),
    [
        ("data", "data"),
        ("link", "data"),
        ("data", "data/README.md/deep"),
        ("data", "**/deep"),  # and another match, which is elsewhere
    ],
)
def test_an_input_is_never_the_output(tmp_path, output, read):
    for name in ("a/deep", "data/README.md/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(ValueError, match="would overwrite teacher"):
        inputs = {"teacher": str(tmp_path / read), "student": None}
        write_model(tmp_path / output, inputs=inputs, overwrite=True)


def test_two_runs_never_write_to_one_folder(tmp_path):
    code = (
        "import os, time\n"
        "from training.utils.output import claim_folder\n"
        f"with claim_folder({str(tmp_path)!r}, [], command='align'):\n"
        "    if os.fork() == 0:\n"
        "        os.closerange(0, 3)\n"
        "        time.sleep(5)\n"
        "        os._exit(0)\n"
        "    print('held', flush=True)\n"
        "    input()\n"
    )
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    other = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(
            ValueError, match=f"output_dir: .* is in use by process {other.pid} on "
        ):
            write_model(tmp_path)
    finally:
        other.kill()
        other.communicate()
    write_model(tmp_path)  # the lock of a killed process is not stale, even while its child lives


def test_a_folder_with_added_files_is_not_replaced(tmp_path):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/model.onnx").write_text("model")
    record_tree(tmp_path, "demo")
    check_replaceable(tmp_path)
    (tmp_path / "onnx/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"output_dir: .* has onnx/notes\.txt, which no command"):
        check_replaceable(tmp_path)
