"""The demo with emoji, end to end on a small corpus with few steps; its example image and its output folder."""

import json
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from training.demo import run as demo_run
from training.demo.__main__ import main
from training.demo.make_teacher import train_tokenizer
from training.demo.run import claim_demo_folder
from training.evaluation.sets.held_out import HeldOut
from training.utils import process
from training.utils.output import record_tree

TRIAL = ["--every", "40", "--max_steps", "1"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, dict]:
    """Folder, results and output of a run. Its corpus is in the cache of the session."""
    AcceleratorState._reset_state(reset_partial_state=True)
    folder = tmp_path_factory.mktemp("demo")
    few = partial(process.interleaved_ms, repeats=3)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(demo_run, "interleaved_ms", few)
        main(["--output_dir", str(folder), *TRIAL])
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return folder, results | {"stdout": printed.getvalue()}


@pytest.mark.slow
def test_rows_have_every_stage_set_language_and_metric(demo):
    folder, results = demo
    found = {
        (row["model"], row["stage"], row["set"], row["language"], row["metric"])
        for row in results["rows"]
    }
    sets = [
        (name, language)
        for name in ("unseen_combination", "unseen_style")
        for language in ("en", "zh")
    ]
    stages = [
        ("teacher", None),
        *(("student", stage) for stage in ("untrained", "distilled", "aligned")),
    ]
    for stage in stages:
        assert {(*stage, *each, metric) for each in sets for metric in ("top1", "top5")} <= found
        sizes = ("parameters", "bytes", "ms_per_image", "ms_per_text")
        assert {(*stage, None, None, metric) for metric in sizes} <= found
    parameters = {
        row["model"]: row["value"] for row in results["rows"] if row["metric"] == "parameters"
    }
    assert 6 * parameters["student"] <= parameters["teacher"]
    assert (folder / "results.png").exists() and "results.png: plot of the table" in results[
        "stdout"
    ]
    cross = json.loads((folder / "cross_model.json").read_text(encoding="utf-8"))["rows"]
    assert {(row["model"], row["stage"]) for row in cross} == {
        (model, stage)
        for model in ("student images, teacher texts", "teacher images, student texts")
        for stage in ("distilled", "aligned")
    }


@pytest.mark.slow
def test_output_has_a_hub_folder_and_a_card_with_results(demo):
    folder, results = demo
    model = folder / "model"
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "model-index" in card and "OpenMoji" in card and "Twemoji" in card
    example = results["meta"]["example"]
    assert (model / example["image"]).is_file() and example["image"] in card
    held_out = HeldOut.open(int(TRIAL[1]))
    labels, names = held_out.sets["unseen_style"]["label"], held_out.class_names.names
    assert example["labels"]["en"] == list(dict.fromkeys(labels))[: len(example["labels"]["zh"])]
    numbers = [names["en"].index(label) for label in example["labels"]["en"]]
    assert example["labels"]["zh"] == [names["zh"][number] for number in numbers]


def write_run(folder: Path):
    with claim_demo_folder(folder):
        for name in ("model", "aligned"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "config.json").touch()
            record_tree(folder / name, "demo")
        (folder / "results.json").touch()


def test_a_second_run_removes_intermediate_folders_and_keeps_the_model_until_it_is_replaced(
    tmp_path,
):
    write_run(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with claim_demo_folder(tmp_path):
        assert not (tmp_path / "aligned").exists()
        assert (tmp_path / "model/config.json").exists() and (tmp_path / "notes.txt").exists()


@pytest.mark.parametrize("name", ["model/thesis.txt", "aligned/thesis.txt", "results.json"])
def test_files_of_the_user_are_refused_before_anything_is_removed(tmp_path, name):
    if name.endswith(".txt"):
        write_run(tmp_path)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=r"^output_dir: "), claim_demo_folder(tmp_path):
        pass
    assert (tmp_path / name).read_text() == "mine"
    assert name == "results.json" or (tmp_path / "aligned/config.json").exists()


def test_the_tokenizer_knows_every_character_and_does_not_depend_on_the_order_of_texts(tokenizer):
    for text in ("красное яблоко", "🍎", "りんご", "红苹果"):
        ids = tokenizer(text)["input_ids"]
        assert (
            ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id and len(ids) > 3
        )
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    texts = ["red apple", "woman farmer: medium-dark skin tone", "红苹果", "女农民 中等-深肤色"]
    straight, reverse = train_tokenizer(texts, 300), train_tokenizer(texts[::-1], 300)
    assert straight.backend_tokenizer.to_str() == reverse.backend_tokenizer.to_str()
