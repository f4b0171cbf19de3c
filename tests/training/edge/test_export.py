"""`training/export.py`: the output folder, and what a later export keeps of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from training import export
from training.edge import graphs, output, verdict
from training.edge.formats import FORMATS, ExportOptions, Format, find_format
from training.edge.gate_data import NUM_NOISE
from training.hub import files as hub_files
from training.hub import list_files
from training.utils.results import Results

pytestmark = pytest.mark.slow

INT8 = "onnx/text_model_quantized.onnx"


def files(folder: Path) -> dict[str, bytes]:
    """Content of all files but the lock and the record of the folder."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".dcclip" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_output_is_a_complete_hub_folder_with_a_verdict_on_every_file(exported):
    assert {"results.json", "runtime_dcclip.py"} <= {*list_files(exported)}
    assert f"| `{INT8}` |" in (exported / "README.md").read_text(encoding="utf-8")
    results = Results.read(exported / "results.json")
    verdicts = results.meta["export"]["verdicts"]
    expected = {f"onnx/{path.name}" for path in (exported / "onnx").iterdir()}
    assert {entry["file"] for entry in verdicts} == expected <= {*list_files(exported)} and len(
        expected
    ) == 4
    for entry in verdicts:
        assert set(entry["lost_points"]) == {"en", "zh"}
        assert entry["bytes"] == (exported / entry["file"]).stat().st_size
    assert set(results.meta["export"]["best"]) == {"vision", "text"} and not results.rows
    assert results.meta["export"]["tags"] == ["onnx"]


@pytest.fixture
def export_text(labeled):
    """Export the text tower of a model into its own folder."""

    def run(folder: Path, *variants: str):
        options = ["--towers", "text", "--variants", *variants, *labeled]
        export.main([str(folder), "--output_dir", str(folder), *options])

    return run


def write_nans(source, tower, path, images):
    """Quantize to a graph whose embeddings are not finite."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.raw_data = b"\xff" * len(tensor.raw_data)
    onnx.save(model, path)


def test_a_refused_file_is_removed_and_files_of_the_same_weights_stay(
    exported, traced, export_text, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(graphs, "quantize", write_nans)
    folder = shutil.copytree(exported, tmp_path / "folder")
    with pytest.raises(SystemExit) as exit_info:
        export_text(folder, "int8")
    assert exit_info.value.code == 1 and f"{INT8}: not written" in capsys.readouterr().out
    left = {name for name in files(folder) if name.endswith(".onnx")}
    assert left == {name for name in files(exported) if name.endswith(".onnx")} - {INT8}
    record = Results.read(folder / "results.json").meta["export"]
    refused = {entry["file"]: entry for entry in record["verdicts"]}[INT8]
    assert "not finite" in refused["reasons"][0] and INT8 not in record["best"].values()
    assert [set(run["files"]) for run in record["runs"]] == [left, {INT8}]
    assert "refused: " in (folder / "README.md").read_text(encoding="utf-8")


def test_files_of_other_weights_are_removed(exported, traced, export_text, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "folder")
    results = Results.read(folder / "results.json")
    results.meta["export"]["weights"] = "others"
    results.write(folder)
    export_text(folder, "fp32")
    assert [path.name for path in (folder / "onnx").iterdir()] == ["text_model.onnx"]
    verdicts = Results.read(folder / "results.json").meta["export"]["verdicts"]
    assert [entry["file"] for entry in verdicts] == ["onnx/text_model.onnx"]


def test_a_downloaded_model_is_exported_again_in_its_folder(
    exported, traced, export_text, tmp_path, refusal
):
    folder = shutil.copytree(exported, tmp_path / "model", ignore=shutil.ignore_patterns(".dcclip"))
    kept = (folder / "onnx/vision_model.onnx").read_bytes()
    (folder / "onnx/notes.txt").write_text("of the user", encoding="utf-8")
    message = refusal(export.main, folder, "--output_dir", folder)
    assert "has onnx, which export did not write" in message
    (folder / "onnx/notes.txt").unlink()
    (folder / "open_clip").mkdir()  # by `open_clip.convert`, without a verdict
    export_text(folder, "fp32")
    assert (folder / "open_clip").is_dir()
    assert (folder / "onnx/vision_model.onnx").read_bytes() == kept
    assert Results.read(folder / "results.json").meta["export"]["runs"][-1]["files"] == [
        "onnx/text_model.onnx"
    ]


def test_a_truncated_model_is_exported_with_its_dimensions(exported, export_text, tmp_path):
    ignored = shutil.ignore_patterns(".dcclip", "onnx")
    folder = shutil.copytree(exported, tmp_path / "model", ignore=ignored)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"truncate_dim": 8}), encoding="utf-8")
    export_text(folder, "fp32")
    (output,) = onnx.load(folder / "onnx/text_model.onnx").graph.output
    assert output.type.tensor_type.shape.dim[1].dim_value == 8


def test_interrupted_export_leaves_the_folder_unchanged(
    exported, traced, export_text, tmp_path, monkeypatch
):
    folder = shutil.copytree(exported, tmp_path / "folder")
    before = files(folder)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(graphs, "quantize", interrupt)
    with pytest.raises(SystemExit, match="130"):
        export_text(folder, "int8")
    assert files(folder) == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "executorch", "variants": ["int4"]}, "format: executorch has fp32, int8"),
        ({"format": "mine"}, "no-such-package"),
        ({"format": "open_clip", "towers": "text"}, "open_clip has fp32 of both towers together"),
    ],
)
def test_formats_that_cannot_be_written_are_refused(monkeypatch, fields, message):
    monkeypatch.setitem(FORMATS, "mine", replace(MINE, packages=("no-such-package",)))
    with pytest.raises((ValueError, ModuleNotFoundError), match=message):
        find_format(fields["format"]).check(ExportOptions(folder="a", output_dir="b", **fields))


def test_without_data_the_files_are_written_and_marked_as_unchecked(
    exported, traced, tmp_path, capsys, monkeypatch
):
    """The model was not trained on emoji, and its folder names no validation set that is here."""
    monkeypatch.setattr(
        verdict, "TOLERANCE", {}
    )  # towers this small gain no time and no bytes from int8
    monkeypatch.setattr(verdict, "MIN_SAVED_SHARE", -1.0)
    export.main(
        [str(exported), "--output_dir", str(tmp_path / "out"), "--variants", "fp32", "int8"]
    )
    printed = capsys.readouterr().out
    assert "No accuracy check is possible" in printed and printed.count("accuracy unchecked") == 3
    assert "vision_model_quantized.onnx: not written" in printed and "--calibration" in printed
    assert not (tmp_path / "out" / "onnx" / "vision_model_quantized.onnx").exists()
    meta = Results.read(tmp_path / "out" / "results.json").meta["export"]
    assert not any(entry["checked"] for entry in meta["verdicts"])
    assert meta["runs"][-1]["data"] == f"none: {NUM_NOISE} images of noise"
    assert "accuracy unchecked" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_best_file_is_the_smallest_of_the_fastest():
    def made(name: str, size: int, share: float, kept: bool = True) -> dict:
        file = {"file": f"onnx/{name}", "tower": "text", "kept": kept}
        return file | {"bytes": size, "ms_share": share}

    verdicts = [made("fp32", 4, 1.0), made("int8", 1, 0.5), made("refused", 1, 0.4, kept=False)]
    assert output.best_files(verdicts) == {"text": "onnx/int8"}
    assert output.best_files(verdicts[:1]) == {"text": "onnx/fp32"}


# a format from outside, as CONTRIBUTING.md describes it; this module has its functions


def write_tower(student, tower, variant, path, images):
    graphs.trace(student, tower, path.with_suffix(".onnx"))
    path.with_suffix(".onnx").rename(path)


open_tower = graphs.open_tower
MINE = Format(
    name="mine",
    module=__name__,
    extra="edge",
    packages=("onnx",),
    suffix=".mine",
    variants={"fp32": ""},
)


def test_format_from_outside_is_exported_checked_and_published(
    exported, traced, labeled, tmp_path, monkeypatch
):
    monkeypatch.setitem(FORMATS, "mine", MINE)
    monkeypatch.setattr(hub_files, "EXPORTS", (*hub_files.EXPORTS, ".mine"))
    export.main([str(exported), "--output_dir", str(tmp_path), "--format", "mine", *labeled])
    expected = {"mine/vision_model.mine", "mine/text_model.mine"}
    assert {
        entry["file"]
        for entry in Results.read(tmp_path / "results.json").meta["export"]["verdicts"]
    } == expected
    assert expected <= {*list_files(tmp_path)}
