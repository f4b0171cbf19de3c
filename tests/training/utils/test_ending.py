"""The end of a command: paths and next commands, whose options exist."""

import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from modeling_dcclip.command import main as dcclip
from training.config import AlignRecipe, DistillRecipe
from training.edge.options import ExportOptions
from training.evaluation.options import EvalOptions
from training.finetuning.options import FinetuneOptions
from training.utils import ending

ROOT = Path(__file__).parents[3]
FOLDER = "runs/my model"
OPTIONS = {
    "training/distill.py": DistillRecipe,
    "training/align.py": AlignRecipe,
    "training/eval.py": EvalOptions,
    "training/export.py": ExportOptions,
    "training/finetune.py": FinetuneOptions,
}
ENDINGS = {
    "stage 1": ending.commands_of_stage_1(FOLDER, "both"),
    "image tower": ending.commands_of_stage_1(FOLDER, "vision"),
    "stage 2": ending.commands_of_stage_2(FOLDER),
    "model": ending.commands_of_model(FOLDER),
    "onnx": ending.commands_of_export(FOLDER, "onnx"),
    "one tower": ending.commands_of_export(FOLDER, "onnx", {"text"}),
    "executorch": ending.commands_of_export(FOLDER, "executorch"),
    "litert": ending.commands_of_export(FOLDER, "litert"),
    "open_clip": ending.commands_of_export(FOLDER, "open_clip"),
    "immich": ending.commands_of_export(FOLDER, "immich"),
    "data": ending.commands_of_data(f"{FOLDER}/data/*.parquet"),
    "index": ending.commands_of_index(FOLDER),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_each_command_names_the_folder_and_has_options_that_exist(name, capsys):
    assert ENDINGS[name] and any("my model" in command for command in ENDINGS[name])
    for command in [part for line in ENDINGS[name] for part in line.split(" && ")]:
        words = shlex.split(command)
        assert not any(word.startswith("runs/my") and word.endswith("my") for word in words)  # quoted as one word
        script = next((word for word in words if word.endswith(".py")), None)
        if script in OPTIONS:
            known = {field.name for field in fields(OPTIONS[script])} | {"config"}
            assert {word[2:].partition(".")[0] for word in words if word.startswith("--")} <= known
        elif script is not None:
            assert (ROOT / script).is_file()
        elif words[0] == "dcclip":
            with pytest.raises(SystemExit) as stopped:
                dcclip([words[1], "--help"])
            assert stopped.value.code == 0
            text = capsys.readouterr().out
            assert all(word in text for word in words if word.startswith("--"))


def test_one_tower_is_not_used_by_dcclip():
    assert not any(command.startswith("dcclip") for command in ENDINGS["one tower"])


def test_only_the_main_process_prints(capsys, monkeypatch):
    ending.print_ending({"runs/a": "a model"}, ["python a.py"])
    assert capsys.readouterr().out == "\n  runs/a: a model\n\nNext:\n  python a.py\n"
    monkeypatch.setenv("RANK", "1")
    ending.print_ending({"runs/a": "a model"}, ["python a.py"])
    assert capsys.readouterr().out == ""
