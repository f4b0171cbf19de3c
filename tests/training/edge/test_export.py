import json
import shutil
import sys
from pathlib import Path

import onnx
import pytest
import torch
from datasets import Dataset
from onnx import TensorProto

from training import export
from training.data import load_source
from training.edge import graphs, output, verdict
from training.edge.formats import FORMATS, ExportOptions, Format
from training.edge.gate_data import NUM_NOISE, GateData
from training.edge.towers import INPUTS, trace_inputs
from training.hub import folder as hub_folder
from training.hub import list_files
from training.utils.results import Results

pytestmark = pytest.mark.slow

INT8 = "onnx/text_model_quantized.onnx"


@pytest.fixture
def labelled(corpus) -> list[str]:
    return ["--data", str(corpus / "unseen_style.parquet"), "--class_names", str(corpus / "class_names.json")]


@pytest.fixture
def fails(capsys):
    """Run the script with invalid options and return its error message."""

    def run(*arguments) -> str:
        with pytest.raises(SystemExit) as exit_info:
            export.main(list(map(str, arguments)))
        assert exit_info.value.code == 2
        return capsys.readouterr().err

    return run


@pytest.fixture
def traced(exported, monkeypatch):
    """Copy graphs that were traced before, since tracing takes the longest."""
    monkeypatch.setattr(graphs, "trace", lambda _, tower, path: shutil.copy(exported / "onnx" / path.name, path))


def files(folder: Path) -> dict[str, bytes]:
    """Content of all files but the lock and the record of the folder."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".dcclip" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_output_is_a_complete_hub_folder(exported):
    names = {path.name for path in exported.iterdir()}
    assert {"config.json", "model.safetensors", "modeling_dcclip.py", "runtime_dcclip.py"} <= names
    assert {"tokenizer.json", "preprocessor_config.json", "results.json", "onnx"} <= names
    assert [name for name in names if name.startswith(".")] == [".dcclip"]
    assert not [
        path for path in list_files(exported) if path.startswith("onnx/") and not (exported / path).stat().st_size
    ]
    assert "| `onnx/text_model_quantized.onnx` |" in (exported / "README.md").read_text(encoding="utf-8")


def test_results_hold_a_verdict_for_every_file(exported):
    results = Results.read(exported / "results.json")
    verdicts = results.meta["export"]["verdicts"]
    assert {entry["file"] for entry in verdicts} == {f"onnx/{path.name}" for path in (exported / "onnx").iterdir()}
    for entry in verdicts:
        assert set(entry["lost_points"]) == {"en", "zh"}
        assert entry["bytes"] == (exported / entry["file"]).stat().st_size
        for language, share in entry["top1"].items():
            assert results.values(model=entry["file"], language=language, metric="top1") == [share]
    assert set(results.meta["export"]["best"]) == {"vision", "text"}


@pytest.fixture
def refused(exported, traced, labelled, tmp_path, capsys, monkeypatch):
    """Export a text tower of NaNs in int8 to a folder with an accepted one, after a change of the earlier record.

    Returns:
        The folder, its files before, and the output.
    """

    def write_nans(source, tower, variant, path, images):
        model = onnx.load(source)
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                tensor.raw_data = b"\xff" * len(tensor.raw_data)
        onnx.save(model, path)

    def run(change) -> tuple[Path, dict[str, bytes], str]:
        folder = shutil.copytree(exported, tmp_path / "folder")
        results = Results.read(folder / "results.json")
        change(results.meta["export"])
        results.write(folder)
        before = files(folder)
        monkeypatch.setattr(graphs, "make_variant", write_nans)
        arguments = ["--output_dir", str(folder), "--towers", "text", "--variants", "int8", *labelled]
        with pytest.raises(SystemExit) as exit_info:
            export.main([str(folder), *arguments])
        assert exit_info.value.code == 1
        printed = capsys.readouterr().out
        assert f"{INT8}: not written" in printed and "not finite" in printed and "Next:" not in printed
        return folder, before, printed

    return run


def test_a_refused_file_leaves_an_accepted_one_of_the_same_weights(refused):
    folder, before, printed = refused(lambda record: None)
    assert "The earlier export, which passed, stays." in printed
    after = files(folder)
    results = json.loads(before.pop("results.json")), json.loads(after.pop("results.json"))
    assert all(results[0]["meta"]["export"][key] == results[1]["meta"]["export"][key] for key in ("runs", "verdicts"))
    assert len(results[0]["rows"]) == len(results[1]["rows"])
    assert before == after


def test_a_refused_file_removes_one_of_other_weights(refused):
    folder, _, printed = refused(lambda record: record.update(weights="others"))
    assert "stays" not in printed and not [name for name in files(folder) if name.endswith(".onnx")]
    assert "refused: " in (folder / "README.md").read_text(encoding="utf-8")
    export = Results.read(folder / "results.json").meta["export"]
    (verdict,) = export["verdicts"]
    assert verdict["file"] == INT8 and not verdict["kept"] and "not finite" in verdict["reasons"][0]
    assert export["best"] == {}


def test_a_downloaded_model_is_exported_again_in_its_folder(exported, traced, labelled, tmp_path, fails):
    folder = shutil.copytree(exported, tmp_path / "model", ignore=shutil.ignore_patterns(".dcclip"))
    kept = (folder / "onnx/vision_model.onnx").read_bytes()
    options = [folder, "--output_dir", folder, "--towers", "text", "--variants", "fp32", *labelled]
    (folder / "onnx/notes.txt").write_text("of the user", encoding="utf-8")
    assert "has onnx, which export did not write" in fails(*options)
    (folder / "onnx/notes.txt").unlink()
    export.main(list(map(str, options)))
    assert (folder / "onnx/vision_model.onnx").read_bytes() == kept
    assert Results.read(folder / "results.json").meta["export"]["runs"][-1]["files"] == ["onnx/text_model.onnx"]


def test_interrupted_export_leaves_the_folder_unchanged(exported, traced, labelled, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    shutil.copytree(exported, folder)
    before = files(folder)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(graphs, "make_variant", interrupt)
    with pytest.raises(SystemExit, match="130"):
        export.main([str(folder), "--output_dir", str(folder), "--towers", "text", *labelled])
    assert files(folder) == before


def test_folder_without_processor_is_refused(exported, tmp_path, fails):
    shutil.copytree(exported, tmp_path / "folder", ignore=shutil.ignore_patterns("preprocessor_config.json", "onnx"))
    message = fails(tmp_path / "folder", "--output_dir", tmp_path / "out")
    assert "preprocessor_config.json" in message and "save_pretrained" in message
    assert not (tmp_path / "out").exists()


def test_labelled_set_without_chinese_names_is_refused(exported, corpus, tmp_path, fails):
    names = json.loads((corpus / "class_names.json").read_text(encoding="utf-8"))
    path = tmp_path / "names.json"
    path.write_text(json.dumps([{"en": entry["en"]} for entry in names]), encoding="utf-8")
    data = ["--data", corpus / "unseen_style.parquet", "--class_names", path]
    message = fails(exported, "--output_dir", tmp_path / "out", *data)
    assert "none in 'zh'" in message and "class_names" in message


def test_other_images_can_set_the_int8_ranges(corpus, exported, labelled, tmp_path, fails):
    calibration = str(corpus / "train.parquet")
    fields = {"folder": str(exported), "output_dir": "out", "data": labelled[1], "class_names": labelled[3]}
    data = GateData.from_options(ExportOptions(**fields, calibration=calibration))
    assert len(data.calibration) == len(load_source(calibration)) != len(data.sets["unseen_style"])
    assert len(GateData.from_options(ExportOptions(**fields)).calibration) == len(data.sets["unseen_style"])
    Dataset.from_dict({"photo": ["a.png"]}).to_parquet(tmp_path / "a.parquet")
    message = fails(exported, "--output_dir", tmp_path / "out", *labelled, "--calibration", tmp_path / "a.parquet")
    assert "calibration" in message and "--image_column" in message


def test_data_and_class_names_need_each_other(exported, labelled, tmp_path, fails):
    assert "needs class_names" in fails(exported, "--output_dir", tmp_path / "out", *labelled[:2])
    assert "without data" in fails(exported, "--output_dir", tmp_path / "out", *labelled[2:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "executorch", "--variants", "fp16"], "variants: --format executorch has no fp16"),
        (["--format", "executorch"], "needs executorch"),
        (["--format", "tflite"], "format: 'tflite'"),
    ],
)
def test_formats_that_cannot_be_written_are_refused(exported, tmp_path, fails, monkeypatch, options, message):
    monkeypatch.setitem(sys.modules, "executorch", None)
    assert message in fails(exported, "--output_dir", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def lenient(monkeypatch):
    """Towers this small gain no time and no bytes from int8."""
    monkeypatch.setattr(verdict, "TOLERANCE", {})
    monkeypatch.setattr(verdict, "MIN_SAVED_SHARE", -1.0)


def test_without_data_the_files_are_written_and_marked_as_unchecked(
    exported, traced, corpus, tmp_path, capsys, lenient
):
    """The model was not trained on emoji, and its folder names no validation set that is here."""
    export.main([str(exported), "--output_dir", str(tmp_path / "out"), "--variants", "fp32", "int8"])
    output = capsys.readouterr().out
    # both towers in fp32, alone and joined; the text tower in int8, alone and joined with the image tower in fp32
    assert "No accuracy check is possible" in output and output.count("accuracy unchecked") == 5
    assert "vision_model_quantized.onnx: not written" in output and "--calibration" in output
    assert not (tmp_path / "out" / "onnx" / "vision_model_quantized.onnx").exists()
    meta = Results.read(tmp_path / "out" / "results.json").meta["export"]
    assert not any(entry["checked"] for entry in meta["verdicts"])
    assert meta["runs"][-1]["data"] == f"none: {NUM_NOISE} images of noise"
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "accuracy unchecked" in card and "no labelled images of the model's kind" in card
    calibration = ["--calibration", str(corpus / "train.parquet")]
    export.main([str(exported), "--output_dir", str(tmp_path / "out"), "--variants", "int8", *calibration])
    assert (tmp_path / "out" / "onnx" / "vision_model_quantized.onnx").exists()
    assert "images without labels" in json.dumps(Results.read(tmp_path / "out" / "results.json").meta["export"])


def test_best_file_is_the_smallest_of_the_fastest():
    def entry(file, bytes, ms_share, kept=True):
        return {"file": file, "tower": "text", "kept": kept, "bytes": bytes, "ms_share": ms_share}

    verdicts = [
        entry("fp32", 4, 1.0),
        entry("fp16", 2, 1.02),
        entry("int8", 1, 0.5),
        entry("refused", 1, 0.4, kept=False),
    ]
    assert output.best_files(verdicts) == {"text": "int8"}
    assert output.best_files(verdicts[:2]) == {"text": "fp16"}
    assert verdict.TOLERANCE["fp16"] > 0.02


# a format from outside, as CONTRIBUTING.md describes it


def write_pt2(student, tower, variant, path, images):
    """Write a tower as a program of torch.export."""
    module, example, shapes = trace_inputs(student, tower)
    torch.export.save(torch.export.export(module, example, dynamic_shapes=shapes), path)


def open_pt2(path, threads):
    program = torch.export.load(path).module()

    def run(arrays):
        with torch.no_grad():
            return program(*(torch.from_numpy(array) for array in arrays.values())).numpy()

    return run


PT2 = Format(
    name="pt2",
    suffix=".pt2",
    variants={"fp32": ""},
    extra="train",
    packages=("torch",),
    write=write_pt2,
    open=open_pt2,
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


@pytest.mark.parametrize("script", ["export", "eval"])
def test_help_needs_no_heavy_package(run_python, script):
    code = (
        "import sys; hidden = ('torch', 'onnx', 'onnxruntime', 'transformers', 'datasets', 'executorch');"
        f"sys.modules |= dict.fromkeys(hidden); from training.{script} import main; main(['--help'])"
    )
    assert "--output_dir" in run_python("-c", code).stdout
