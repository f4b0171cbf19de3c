"""Output folders: files of the user are never overwritten, and two runs never write to one folder."""

import os
import subprocess
import sys
import textwrap

import pytest

from tests.tiny import ROOT
from training.utils.output import (
    check_replaceable,
    claim_folder,
    record_tree,
    recorded_names,
)

NAMES = ("README.md", "model.safetensors")


def claim(folder, **options):
    return claim_folder(folder, NAMES, command="distill", **options)


def write_model(folder, **options):
    with claim(folder, **options):
        for name in NAMES:
            (folder / name).write_text("model")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_the_user_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"output_dir: .* has {name}, which distill did not write.*--overwrite"):
        write_model(tmp_path)
    assert (tmp_path / name).read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == [name]
    write_model(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "model"


def test_a_dangling_link_counts_as_a_file(tmp_path):
    (tmp_path / "README.md").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"README\.md"):
        write_model(tmp_path)


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


@pytest.mark.parametrize("relation", ["equal", "link", "inside"])
def test_an_input_is_never_the_output(tmp_path, relation):
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    output = teacher
    if relation == "link":
        output = tmp_path / "link"
        output.symlink_to(teacher)
    if relation == "inside":
        output, teacher = tmp_path, tmp_path / "README.md"
        teacher.mkdir()
    with pytest.raises(ValueError, match="would overwrite teacher"):
        write_model(output, inputs={"teacher": str(teacher), "student": None}, overwrite=True)


def test_two_runs_never_write_to_one_folder(tmp_path):
    code = f"""
        from training.utils.output import claim_folder
        with claim_folder({str(tmp_path)!r}, [], command="align"):
            print("held", flush=True)
            input()
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"output_dir: .* is in use by process {other.pid} on "):
            write_model(tmp_path)
    finally:
        other.kill()
        other.communicate()
    write_model(tmp_path)  # the lock of a killed process is not stale


def test_a_process_cannot_claim_a_folder_twice(tmp_path):
    with claim(tmp_path), pytest.raises(ValueError, match="this process is writing to"), claim(tmp_path):
        pass


def test_a_folder_with_added_files_is_not_replaced(tmp_path):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/model.onnx").write_text("model")
    record_tree(tmp_path, "demo")
    check_replaceable(tmp_path)
    check_replaceable(tmp_path / "missing")
    (tmp_path / "onnx/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"output_dir: .* has onnx/notes\.txt, which no command"):
        check_replaceable(tmp_path)
