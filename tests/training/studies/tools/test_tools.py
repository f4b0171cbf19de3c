"""The study of tools on a tiny model: the runtime without PyTorch ranks as transformers does."""

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from modeling_dcclip import DCCLIPProcessor
from tests.tiny import MAX_TEXT_LENGTH, ROOT, WHOLE_EFFICIENTNET, make_model, recipe_fields, student_config
from training.config import DistillRecipe
from training.hub.hub_model import HubModel
from training.studies.tools import measure
from training.studies.tools.__main__ import main
from training.studies.tools.encoder import normalized
from training.studies.tools.options import ToolsOptions
from training.studies.tools.photographs import write_photographs
from training.studies.tools.runtimes import TorchFree
from training.studies.tools.table import TOOLS
from training.studies.tools.tables import tools_table
from training.utils.results import Results, Row

TOOL = "torch-free runtime"


@pytest.fixture(scope="module")
def exported(processor, tmp_path_factory):
    """A finished folder with graphs; those of int8 are those of fp32."""
    graphs = pytest.importorskip("training.edge.graphs", reason='pip install -e ".[edge]"')
    folder = tmp_path_factory.mktemp("tools") / "dcclip-tiny"
    recipe = DistillRecipe(**recipe_fields(folder, "some/images", teacher="some/teacher", student=student_config()))
    model, tokenizer = make_model(WHOLE_EFFICIENTNET, seed=3), copy.deepcopy(processor.tokenizer)
    tokenizer.model_max_length = MAX_TEXT_LENGTH
    HubModel(model, DCCLIPProcessor(processor.image_processor, tokenizer), recipe).save(folder)
    (folder / "onnx").mkdir()
    for tower in ("vision", "text"):
        graphs.trace(model, tower, folder / "onnx" / f"{tower}_model.onnx")
        shutil.copy(folder / "onnx" / f"{tower}_model.onnx", folder / "onnx" / f"{tower}_model_quantized.onnx")
    return folder


def options(exported, corpus, out, *more: str) -> list[str]:
    words = ["--data", str(corpus / "train.parquet"), "--model", str(exported), "--output_dir", str(out)]
    return [*words, "--num_queries", "30", "--width", "96", *more]


@pytest.mark.slow
def test_the_runtime_ranks_as_transformers_does(exported, corpus, tmp_path, capsys, monkeypatch):
    main(options(exported, corpus, tmp_path / "out", "--tools", TOOL))
    results = Results.read(tmp_path / "out" / "results.json")
    assert (results.meta["queries"], results.meta["images"], results.meta["width"]) == (30, 180, 96)
    for language in ("en", "zh"):
        assert results.mean(model=TOOL, stage="fp32", metric="tied_set", language=language) >= 0.99
        recall = [
            results.mean(model=each, stage="fp32", metric="recall_at_10", language=language)
            for each in ("transformers", TOOL)
        ]
        assert recall[0] == pytest.approx(recall[1], abs=0.04)
        own, pillow = (
            [results.mean(model=each, metric=metric, language=language) for metric in ("same_set", "pillow_same_set")]
            for each in ("transformers", "transformers, Pillow")
        )
        assert own[0] == pillow[1] == 1 and own[1] == pillow[0]
    assert max(results.values(model=TOOL, metric="largest_difference")) < 1e-3
    assert capsys.readouterr().out.strip() == tools_table(results)
    assert not (tmp_path / "out" / ".tools").exists()
    # a second run with the same options keeps the tools that it does not measure
    monkeypatch.setattr(measure, "chosen_tools", lambda names: [])
    main(options(exported, corpus, tmp_path / "out"))
    assert Results.read(tmp_path / "out" / "results.json").rows == results.rows
    main(options(exported, corpus, tmp_path / "out", "--num_images", "100"))
    both = {"transformers", "transformers, Pillow"}
    assert {row.model for row in Results.read(tmp_path / "out" / "results.json").rows} == both


@pytest.mark.slow
def test_a_tool_that_ranks_in_another_way_fails(exported, corpus, tmp_path, capsys, monkeypatch):
    (tool,) = measure.chosen_tools([TOOL])

    class Noise(TorchFree):
        def encode_images(self, paths):
            images = super().encode_images(paths)
            return normalized(images + np.random.default_rng(0).standard_normal(images.shape))

    monkeypatch.setattr(measure, "TOOLS", [replace(tool, open=Noise)])
    with pytest.raises(SystemExit) as stopped:
        main(options(exported, corpus, tmp_path / "out"))
    assert stopped.value.code == 1 and "same ten best images; 99 % are required" in capsys.readouterr().err


def test_shortfalls_are_judged_by_the_number_format():
    fields = {"language": "zh"}
    rows = [
        Row(model="transformers", stage="fp32", metric="recall_at_10", value=0.50, **fields),
        Row(model="A", stage="fp32", metric="tied_set", value=0.988, **fields),
        Row(model="A", stage="fp32", metric="pillow_tied_set", value=0.989, **fields),
        Row(model="D", stage="fp32", metric="tied_set", value=0.988, **fields),
        Row(model="D", stage="fp32", metric="pillow_tied_set", value=1.0, **fields),
        Row(model="B", stage="fp32", metric="tied_set", value=0.99, **fields),
        Row(model="B", stage="int8", metric="tied_set", value=0.1, **fields),
        Row(model="B", stage="int8", metric="recall_at_10", value=0.491, **fields),
        Row(model="C", stage="int8", metric="recall_at_10", value=0.489, **fields),
    ]
    first, second = measure.shortfalls(Results({}, rows))
    assert first.startswith("A, fp32: 98.9 % of the queries in zh")
    assert second.startswith("C, int8: loses 1.10 points of recall at 10 in zh")


@pytest.mark.parametrize("width", [0, 96])
def test_queries_and_images_are_evenly_spaced(corpus, tmp_path, width):
    rows = load_dataset("parquet", data_files=str(corpus / "train.parquet"), split="train").select(range(7))
    several = [[f"{text} 1", f"{text} 2"] for text in rows["en"]]
    rows = rows.select_columns(["image", "zh"]).add_column("en", several)
    rows.to_parquet(tmp_path / "rows.parquet")
    fields = {"data": str(tmp_path / "rows.parquet"), "num_images": 4, "width": width}
    photographs = write_photographs(ToolsOptions(**fields, num_queries=3), tmp_path / "files")
    assert len(photographs.files) == 4  # rows 0, 2, 4, 6
    assert photographs.targets["en"].tolist() == [0, 1, 3]
    assert photographs.texts["en"] == [several[0][0], several[2][1], several[6][1]]
    assert photographs.texts["zh"] == [rows["zh"][row] for row in (0, 2, 6)]
    with Image.open(photographs.files[0]) as image:
        assert image.size == ((96, 72) if width else rows[0]["image"].size)
    with pytest.raises(ValueError, match=r"num_queries: must be in 1\.\.4, the number in the data; got 5"):
        write_photographs(ToolsOptions(**fields, num_queries=5), tmp_path / "more")


def test_unknown_tools_and_missing_files_are_one_line(corpus, tmp_path, capsys):
    for more, message in (
        (["--tools", "Nothing"], "tools: there is no 'Nothing'. Expected: sentence-transformers; "),
        (["--tools", TOOL], "has no onnx/vision_model.onnx, which 'torch-free runtime' runs. Write it with"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(options(tmp_path, corpus, tmp_path / "out", *more))
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_the_tools_are_those_of_the_manual():
    manual = (ROOT / "model_cards/README.md").read_text(encoding="utf-8")
    table = manual.partition("## Load a folder\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    listed = {line.split(" | ")[0].removeprefix("| ") for line in table}
    names = {tool.name.partition(", ")[0] if tool.name != "fastembed, Qdrant" else tool.name for tool in TOOLS}
    # the handler gives scores of labels for one image, which rank no images
    assert names | {"transformers", "Inference Endpoints"} == listed
