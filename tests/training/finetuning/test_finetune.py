"""A newcomer's first command: a CSV of Chinese titles and a folder of images, and variants of it."""

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
from training import finetune, general_images
from training.engine.loop import TrainingState
from training.finetuning import finish
from training.tasks import own_inputs
from training.utils.results import Results

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]

STEPS = ["--max_steps", "3", "--learning_rate", "3e-3"]


@pytest.fixture(scope="module")
def rows(train_rows):
    return distinct_rows(train_rows, 24)


@pytest.fixture(scope="module")
def start(processor, tmp_path_factory):
    """A finished model, distilled from a teacher with a license of its own."""
    folder = tmp_path_factory.mktemp("start")
    # dropout would differ between processes
    origin = {"teacher": "some/teacher", "teacher_weights": "0" * 16}
    origin["teacher_license"] = "cc-by-nc-4.0"
    model = make_model(MOBILENET, NO_DROPOUT, seed=3, **origin)
    model.config.fit = [1.0] * 6
    save_student(folder, model, processor)
    return folder


def run(start, data, output_dir, *arguments):
    paths = ["--model", str(start), "--data", str(data), "--output_dir", str(output_dir)]
    finetune.main([*paths, *STEPS, *arguments])


@pytest.fixture(scope="module", autouse=True)
def few_photographs():
    """2,048 crops, ten points of a curve, and 80 large views that are decoded for each take seconds in each run."""
    smallest = general_images.HELD_OUT_PHOTOS[-3:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_inputs, "photo_crops", partial(own_inputs.photo_crops, number=64))
        patch.setattr(general_images, "HELD_OUT_PHOTOS", smallest)
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


def test_output_starts_with_license_and_columns_and_ends_with_table_and_folder(finetuned, start):
    folder, printed = finetuned
    assert printed.startswith(
        f"License of the finished model, inherited from {start}: cc-by-nc-4.0.\n24 rows of CSV file"
    )
    assert "image column: image, zh captions: zh\n20 images for training, 4" in printed
    assert "3 steps of 4 images, then" in printed
    assert (folder / "table.md").read_text(encoding="utf-8").strip() in printed
    assert "Held-out photographs cannot show a loss below 33.3 points." in printed
    assert printed.splitlines()[-1].startswith(f"  {folder}: ")


@torch.no_grad()
def test_the_finished_model_encodes_and_has_no_fit(finetuned, inputs):
    model = DCCLIPModel.from_pretrained(finetuned[0]).eval()
    assert model(**inputs).logits_per_image.isfinite().all()
    assert model.config.fit is None


def test_results_have_both_models_on_all_sets_and_the_distance_to_the_start(finetuned):
    results = Results.read(finetuned[0] / "results.json")
    for stage in ("start", "finetuned"):
        rows = [row for row in results.rows if row.stage == stage]
        names = {(row.set, row.language, row.metric) for row in rows}
        assert ("validation", "zh", "text_to_image_R@1") in names
        for language in ("en", "zh"):
            assert ("general texts", language, "text_to_text_R@1") in names
            assert ("held-out photographs", language, "top1") in names
    assert results.meta["command"].startswith("python training/finetune.py --model")
    cosines = results.meta["finetune"]["cosine_to_start"]
    assert cosines["images"] > 0.5
    assert cosines["texts"] > 0.5
    assert (finetuned[0] / "results.png").exists()


def test_the_finished_model_is_the_chosen_point(finetuned, start):
    folder, _ = finetuned
    facts = Results.read(folder / "results.json").meta["finetune"]
    curve = {point["weight"]: point for point in facts["curve"]}
    assert list(curve) == [0, 0.5, 1]
    assert curve[facts["weight"]]["validation"] >= curve[0]["validation"]

    def projection(path):
        return load_file(path / "model.safetensors")["text_projection.weight"]

    weight = finish.TEXT_SHARE * facts["weight"]
    expected = projection(start).lerp(projection(folder / "tuned"), weight)
    torch.testing.assert_close(projection(folder), expected)


def interrupt(start, titles, output_dir):
    """Run until the disk fails in the third step, and return the exit code."""
    update = TrainingState.update

    def fail(state):
        if state.progress.step == 2:
            raise OSError("the disk is gone")
        return update(state)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(TrainingState, "update", fail)
        run(start, titles, output_dir, "--resume")
    AcceleratorState._reset_state(reset_partial_state=True)
    return stopped.value.code


def test_class_folders_without_an_anchor(start, rows, tmp_path):
    colors = ["红色", "绿色", "蓝色"]
    write_images(tmp_path / "images", rows, lambda number: f"{colors[number % 3]}/{number}.png")
    options = ["--anchor_weight", "0", "--general_weight", "0"]
    run(start, tmp_path / "images", tmp_path / "mine", *options)
    results = Results.read(tmp_path / "mine" / "results.json")
    assert results.values(stage="finetuned", set="validation", language="zh", metric="top1")
    config = DCCLIPModel.from_pretrained(tmp_path / "mine").config
    assert config.teacher_weights is None  # it has left its teacher's space
    assert config.base_model == start.name
    assert config.base_model_license == "cc-by-nc-4.0"
    card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert "not comparable with the embeddings of" in card


def test_an_interrupted_run_resumes_to_the_same_model(start, titles, finetuned, tmp_path):
    folder = tmp_path / "mine"
    assert interrupt(start, titles, folder) == 1
    assert not (folder / "model.safetensors").exists()
    assert [*(folder / "tuned").glob("checkpoint-*")] == [folder / "tuned" / "checkpoint-000002"]
    run(start, titles, folder, "--resume")
    for name in ("tuned/model.safetensors", "model.safetensors"):
        assert (folder / name).read_bytes() == (finetuned[0] / name).read_bytes()


def test_an_interrupted_run_is_not_overwritten(start, titles, tmp_path, capsys):
    interrupt(start, titles, tmp_path / "mine")
    with pytest.raises(SystemExit):
        run(start, titles, tmp_path / "mine", "--validation_share", "0.4")
    assert "has checkpoint-000002 of an earlier run" in capsys.readouterr().err


def snapshot(folder):
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and ".dcclip" not in path.parts:
            found[path] = path.read_bytes()
    return found


def test_a_run_that_is_refused_leaves_the_finished_one_intact(
    finetuned, start, titles, rows, tmp_path, capsys
):
    folder, _ = finetuned
    lines = [*write_images(tmp_path, rows)[:-2], ("gone.png", "没有图片")]
    other = write_csv(tmp_path / "titles.csv", lines)
    before = snapshot(folder)
    for message, data, options in (
        ("finetune: resume: ", other, []),
        (r"anchor_weight: .*, now 2\.0", titles, ["--anchor_weight", "2"]),
    ):
        with pytest.raises(SystemExit) as stopped:
            run(start, data, folder, "--resume", *options)
        assert stopped.value.code == 2
        assert re.search(message, capsys.readouterr().err)
        (folder / "skipped.csv").unlink(missing_ok=True)  # the list of the refused data
        assert snapshot(folder) == before


def test_two_processes_share_the_batch_of_one(start, titles, tmp_path, capfd):
    debug_launcher(run, (start, titles, tmp_path / "two"))
    assert capfd.readouterr().out.count(": Hub folder") == 1  # the main process alone prints
    card = (tmp_path / "two" / "README.md").read_text(encoding="utf-8")
    assert "batch size 4 (2 processes of 2), " in card
