"""The demo with emoji, end to end on a small corpus with few steps; its example image and its output folder."""

from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState

from modeling_dcclip import DCCLIPConfig, DCCLIPProcessor
from training.experiments.corpus.held_out import HeldOut
from training.experiments.demo import make_teacher
from training.experiments.demo import run as demo_run
from training.experiments.demo.__main__ import main
from training.experiments.demo.make_teacher import train_tokenizer
from training.experiments.demo.run import claim_demo_folder
from training.utils import process
from training.utils.output import record_tree
from training.utils.results import Results

TRIAL = ["--every", "40", "--max_steps", "1", "--seed", "7"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, Results, str]:
    """Folder, results and output of a run. Its corpus is in the cache of the session."""
    AcceleratorState._reset_state(reset_partial_state=True)
    folder = tmp_path_factory.mktemp("demo")
    few = partial(process.interleaved_ms, repeats=3)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(demo_run, "interleaved_ms", few)
        main(["--output_dir", str(folder), *TRIAL])
    return folder, Results.read(folder / "results.json"), printed.getvalue()


@pytest.mark.slow
def test_rows_have_every_stage_set_language_and_metric(demo):
    folder, results, printed = demo
    assert len(results.rows) == 4 * (2 * 2 * 2 + 4)  # stages; sets, languages, metrics; sizes
    for stage in ("untrained", "distilled", "aligned"):
        fields = {"model": "student", "stage": stage}
        assert results.values(**fields, set="unseen_style", language="zh", metric="top1")
        assert results.values(**fields, metric="ms_per_text")
    small, large = (
        results.mean(model=name, metric="parameters") for name in ("student", "teacher")
    )
    assert 6 * small <= large
    assert {row.seed for row in results.rows if row.model == "teacher"} == {None}
    assert {row.seed for row in results.rows if row.model == "student"} == {7}
    for name in ("distilled", "aligned"):
        recipe = yaml.safe_load((folder / name / "recipe.yaml").read_text(encoding="utf-8"))
        assert (recipe["max_steps"], recipe["seed"]) == (1, 7)
    assert (folder / "results.png").exists() and "results.png: plot of the table" in printed
    cross = Results.read(folder / "cross_model.json").rows
    assert {(row.model, row.stage) for row in cross} == {
        (model, stage)
        for model in ("student images, teacher texts", "teacher images, student texts")
        for stage in ("distilled", "aligned")
    }


@pytest.mark.slow
def test_output_has_a_hub_folder_and_a_card_with_results(demo):
    folder, results, _ = demo
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "model-index" in card and "OpenMoji" in card and "Twemoji" in card
    example = results.meta["example"]
    assert (folder / "model" / example["image"]).is_file() and example["image"] in card
    held_out = HeldOut.open(int(TRIAL[1]))
    for language, names in held_out.class_names.names.items():
        first = names[held_out.sets["unseen_style"].labels[0]]
        assert example["labels"][language][0] == first


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


def test_the_shipped_teacher_is_of_the_architecture_that_the_script_builds(tmp_path, monkeypatch):
    shipped = DCCLIPProcessor.from_pretrained(make_teacher.TEACHER_FOLDER)
    # the corpus of the tokenizer takes seconds
    monkeypatch.setattr(make_teacher, "load_train", lambda: {"en": [], "zh": []})
    monkeypatch.setattr(make_teacher, "train_tokenizer", lambda texts: shipped.tokenizer)
    make_teacher.build_untrained_teacher(tmp_path)
    configs = []
    for folder in (tmp_path, make_teacher.TEACHER_FOLDER):
        config = DCCLIPConfig.from_pretrained(folder).to_dict()
        for each in (config, config["vision_config"], config["text_config"]):
            for name in ("dtype", "transformers_version"):
                each.pop(name, None)
        configs.append(config)
    assert configs[0] == configs[1]
    built = DCCLIPProcessor.from_pretrained(tmp_path)
    assert built.image_processor.to_dict() == shipped.image_processor.to_dict()
    assert built.tokenizer.model_max_length == shipped.tokenizer.model_max_length


def test_the_tokenizer_knows_every_character_and_does_not_depend_on_the_order_of_texts(tokenizer):
    for text in ("красное яблоко", "🍎", "红苹果"):
        ids = tokenizer(text)["input_ids"]
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    texts = ["red apple", "woman farmer: medium-dark skin tone", "红苹果", "女农民 中等-深肤色"]
    straight, reverse = (
        train_tokenizer(each, 300).backend_tokenizer for each in (texts, texts[::-1])
    )
    assert straight.to_str() == reverse.to_str()
