"""Add an export format from outside, as CONTRIBUTING.md describes it."""

import pytest
import torch

from training import export
from training.edge import verdict
from training.edge.formats import FORMATS, Format
from training.edge.towers import INPUTS, trace_inputs
from training.hub import folder as hub_folder
from training.utils.quiet import quiet_export
from training.utils.results import Results

pytestmark = pytest.mark.slow


def write(student, tower, variant, path, images):
    """Write a tower as a program of torch.export."""
    module, example, shapes = trace_inputs(student, tower)
    with quiet_export():
        torch.export.save(torch.export.export(module, example, dynamic_shapes=shapes), path)


def open_program(path, threads):
    program = torch.export.load(path).module()

    def run(arrays):
        with torch.no_grad():
            return program(*(torch.from_numpy(array) for array in arrays.values())).numpy()

    return run


PT2 = Format(
    name="pt2",
    suffix=".pt2",
    variants={"fp32": ""},
    default_variants=("fp32",),
    extra="train",
    packages=("torch",),
    write=write,
    open=open_program,
)


def test_format_from_outside_is_exported_checked_and_published(exported, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(FORMATS, "pt2", PT2)
    monkeypatch.setattr(hub_folder, "OPTIONAL", (*hub_folder.OPTIONAL, "pt2/*.pt2"))
    monkeypatch.setattr(verdict, "TOLERANCE", {})
    data = ["--data", str(corpus / "unseen_style.parquet"), "--class_names", str(corpus / "class_names.json")]
    export.main([str(exported), "--output_dir", str(tmp_path), "--format", "pt2", *data])
    files = {f"pt2/{tower}_model.pt2" for tower in INPUTS}
    assert {entry["file"] for entry in Results.read(tmp_path / "results.json").meta["export"]["verdicts"]} == files
    assert files <= {*hub_folder.list_files(tmp_path)}
    assert "pt2/text_model.pt2: " in capsys.readouterr().out


@pytest.mark.parametrize("name", FORMATS)
def test_files_of_every_format_are_published(name):
    entry = FORMATS[name]
    for variant in entry.variants:
        assert hub_folder.is_publishable(f"{name}/{entry.file_name('text', variant)}")
