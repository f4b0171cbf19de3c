"""A newcomer's first command: a CSV of Chinese titles and a folder of images, and variants of it."""

import json
import re
from contextlib import redirect_stdout
from functools import partial
from io import StringIO

import pytest
import torch
from accelerate import debug_launcher
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from modeling_dcclip import DCCLIPModel
from tests.tiny import MOBILENET, NO_DROPOUT, make_model, save_student
from tests.training.finetuning.newcomer import distinct_rows, write_csv, write_images
from training import finetune
from training.corpus import free_photos
from training.engine.state import TrainingState
from training.finetuning import finish
from training.utils.results import Results

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]

NUM_IMAGES = 24
STEPS = ["--max_steps", "3", "--learning_rate", "3e-3"]


@pytest.fixture(scope="module")
def rows(train_rows):
    return distinct_rows(train_rows, NUM_IMAGES)


@pytest.fixture(scope="module")
def start(processor, tmp_path_factory):
    """A finished model, distilled from a teacher with a license of its own."""
    folder = tmp_path_factory.mktemp("start")
    # dropout would differ between processes
    model = make_model(
        MOBILENET, NO_DROPOUT, seed=3, teacher="some/teacher", teacher_license="cc-by-nc-4.0"
    )
    model.config.fit = [1.0] * 6
    save_student(folder, model, processor)
    return folder


def run(start, data, output_dir, *arguments):
    paths = ["--model", str(start), "--data", str(data), "--output_dir", str(output_dir)]
    finetune.main([*paths, *STEPS, *arguments])


@pytest.fixture(scope="module", autouse=True)
def few_photographs():
    """2,048 crops, ten points of a curve, and 80 large views that are decoded for each take seconds in each run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(free_photos, "photo_crops", partial(free_photos.photo_crops, number=64))
        patch.setattr(
            free_photos, "HELD_OUT_PHOTOS", free_photos.HELD_OUT_PHOTOS[-3:]
        )  # the smallest
        patch.setattr(finish, "WEIGHTS", (0.5, 1.0))
        yield


@pytest.fixture(scope="module")
def titles(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("newcomer")
    return write_csv(folder / "titles.csv", write_images(folder, rows))


@pytest.fixture(scope="module")
def finetuned(start, titles):
    """The newcomer's command, without any further option but the number of steps, and what it prints."""
    AcceleratorState._reset_state(reset_partial_state=True)
    folder = titles.with_name("mine")
    with redirect_stdout(StringIO()) as printed:
        run(start, titles, folder)
    return folder, printed.getvalue()


def test_output_starts_with_license_and_columns_and_ends_with_table_and_folder(
    finetuned, start, inputs
):
    folder, printed = finetuned
    assert printed.startswith(
        f"License of the finished model, inherited from {start}: cc-by-nc-4.0.\n24 rows of CSV file"
    )
    assert "image column: image, zh captions: zh\n20 images for training, 4" in printed
    assert "3 steps of 4 images, then" in printed
    assert (folder / "table.md").read_text(encoding="utf-8").strip() in printed
    assert "Held-out photographs cannot show a loss below 33.3 points." in printed
    assert printed.splitlines()[-1].startswith(f"  {folder}: ")
    with torch.no_grad():
        assert (
            DCCLIPModel.from_pretrained(folder).eval()(**inputs).logits_per_image.isfinite().all()
        )


def test_results_have_both_models_on_both_sets(finetuned):
    results = Results.read(finetuned[0] / "results.json")
    for stage in ("start", "finetuned"):
        names = {(row.set, row.language, row.metric) for row in results.rows if row.stage == stage}
        assert ("validation", "zh", "text_to_image_R@1") in names
        assert {
            ("general texts", language, "text_to_text_R@1") for language in ("en", "zh")
        } <= names
    assert results.meta["command"].startswith("python training/finetune.py --model")
    assert (finetuned[0] / "results.png").exists()
    assert json.loads((finetuned[0] / "config.json").read_text(encoding="utf-8"))["fit"] is None
    assert results.meta["finetune"]["cosine_to_start"]["images"] > 0.5


def test_the_finished_model_is_the_chosen_point(finetuned, start):
    folder, _ = finetuned
    facts = Results.read(folder / "results.json").meta["finetune"]
    curve = {point["weight"]: point for point in facts["curve"]}
    assert [*curve] == [0, 0.5, 1]
    assert curve[facts["weight"]]["validation"] >= curve[0]["validation"]
    before, end, after = (
        load_file(path / "model.safetensors") for path in (start, folder / "tuned", folder)
    )
    name = "text_projection.weight"
    weight = finish.TEXT_SHARE * facts["weight"]
    torch.testing.assert_close(after[name], before[name].lerp(end[name], weight))


def test_class_folders_without_an_anchor(start, rows, tmp_path):
    colors = ["红色", "绿色", "蓝色"]
    write_images(tmp_path / "images", rows, lambda number: f"{colors[number % 3]}/{number}.png")
    options = ["--anchor_weight", "0", "--general_weight", "0"]
    run(start, tmp_path / "images", tmp_path / "mine", *options)
    results = Results.read(tmp_path / "mine" / "results.json")
    assert results.values(stage="finetuned", set="validation", language="zh", metric="top1")
    config = DCCLIPModel.from_pretrained(tmp_path / "mine").config
    assert config.teacher is None
    assert config.base_model == start.name
    assert config.base_model_license == "cc-by-nc-4.0"
    card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert "not comparable with the embeddings of" in card


def test_an_interrupted_run_resumes_to_the_same_model(
    start, titles, finetuned, tmp_path, monkeypatch, capsys
):
    update = TrainingState.update

    def fail(state):
        if state.progress.step == 2:
            raise OSError("the disk is gone")
        return update(state)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(TrainingState, "update", fail)
        run(start, titles, tmp_path / "mine", "--resume")
    assert stopped.value.code == 1
    assert not (tmp_path / "mine" / "model.safetensors").exists()
    assert [path.name for path in (tmp_path / "mine" / "tuned").glob("checkpoint-*")] == [
        "checkpoint-000002"
    ]
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(SystemExit):  # and leaves the data of the interrupted run
        run(start, titles, tmp_path / "mine", "--validation_share", "0.4")
    assert "has checkpoint-000002 of an earlier run" in capsys.readouterr().err
    AcceleratorState._reset_state(reset_partial_state=True)
    run(start, titles, tmp_path / "mine", "--resume")
    for name in ("tuned", "."):
        unbroken, resumed = (
            load_file(path / name / "model.safetensors")
            for path in (finetuned[0], tmp_path / "mine")
        )
        assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)


def snapshot(folder):
    paths = (path for path in folder.rglob("*") if path.is_file() and ".dcclip" not in path.parts)
    return {str(path): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("number", "arguments", "message"),
    [
        (NUM_IMAGES - 2, ["--resume"], "finetune: resume: "),
        (NUM_IMAGES, ["--resume", "--anchor_weight", "2"], r"anchor_weight: .*, now 2\.0"),
    ],
)
def test_a_refused_run_leaves_the_finished_one_intact(
    number, arguments, message, finetuned, start, rows, capsys
):
    """Other data, too few images, and other options."""
    folder, _ = finetuned
    before = snapshot(folder)
    data = folder.with_name("titles.csv")
    if number < NUM_IMAGES:
        written = write_images(folder.parent / "other", rows)[:number]
        data = write_csv(
            folder.parent / "other" / "titles.csv", [*written, ("gone.png", "没有图片")]
        )
    with pytest.raises(SystemExit) as stopped:
        run(start, data, folder, *arguments)
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    (folder / "skipped.csv").unlink(missing_ok=True)  # the list of the refused data
    assert snapshot(folder) == before


def test_two_processes_share_the_batch_of_one(start, titles, tmp_path, capfd):
    debug_launcher(run, (start, titles, tmp_path / "two"))
    assert capfd.readouterr().out.count(": Hub folder") == 1  # the main process alone prints
    card = (tmp_path / "two" / "README.md").read_text(encoding="utf-8")
    assert "batch size 4 (2 processes of 2), " in card
