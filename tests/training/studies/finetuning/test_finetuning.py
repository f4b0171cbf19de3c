"""The comparison of ways to fine-tune, on a tiny model and drawings."""

import copy

import pytest
import torch
from datasets import Dataset, Image

from tests.tiny import NO_DROPOUT, WHOLE_EFFICIENTNET, make_model
from training.studies.finetuning import measure
from training.studies.finetuning.__main__ import main
from training.studies.finetuning.pool import Pool
from training.studies.finetuning.tables import START, finetuning_table
from training.utils.results import RESULTS_FILE, Results

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


@pytest.fixture(scope="module")
def source(corpus) -> str:
    return str(corpus / "train.parquet")


def arguments(source: str, labelled: str, model: object, out: object, *arms: str) -> list[str]:
    fields = {"data": source, "photographs": source, "labelled": labelled, "model": model, "output_dir": out}
    words = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    return [*words, "--arms", *arms, "--sizes", "40", "--seeds", "1", "2", "--max_steps", "2", "--num_general", "12"]


def test_every_arm_is_measured_and_a_second_call_repeats_none(
    source, labelled, teacher_folder, tmp_path, monkeypatch, capsys
):
    command = arguments(source, labelled, teacher_folder, tmp_path, "default", "plain")
    main(command)
    results = Results.read(tmp_path / RESULTS_FILE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["finetuning.png", RESULTS_FILE]
    sets = {(row.set, row.language, row.metric) for row in results.rows if row.model == START}
    for arm in ("default", "plain"):
        for seed in (1, 2):
            rows = [row for row in results.rows if (row.model, row.stage, row.seed) == (arm, "40 pairs", seed)]
            assert {(row.set, row.language, row.metric) for row in rows if row.language} == sets
            assert {row.metric for row in rows if row.language is None} == {"minutes", "cpu_minutes"}
    assert finetuning_table(results) in capsys.readouterr().out
    monkeypatch.setattr(measure, "train", None)  # nothing is trained again
    main(command)
    assert Results.read(tmp_path / RESULTS_FILE).rows == results.rows
    with pytest.raises(SystemExit):
        main([*command, "--num_general", "11"])
    assert "has runs with images {" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--max_steps", "3"])
    assert "has runs with steps 2, not 3. Name another folder" in capsys.readouterr().err
    assert Results.read(tmp_path / RESULTS_FILE).rows == results.rows


def test_general_images_make_an_arm(source, labelled, teacher_folder, tmp_path):
    main([*arguments(source, labelled, teacher_folder, tmp_path, "general_own"), "--general_data.own", source])
    results = Results.read(tmp_path / RESULTS_FILE)
    assert {row.seed for row in results.rows if row.model == "general_own"} == {1, 2}
    assert results.meta["general_data"] == {"own": source}


def test_the_test_split_is_in_no_training_set(source, tmp_path):
    pool = Pool.open([source, source])
    captions = {text for texts in pool.test["zh"] for text in texts}
    images = {cell["bytes"] for cell in pool.test["image"]}
    assert not images & {cell["bytes"] for cell in pool.training["image"]} and captions
    first, again, other = (
        Dataset.from_parquet(str(pool.write(tmp_path / f"{number}.parquet", 20, seed)))["zh"]
        for number, seed in enumerate((1, 1, 2))
    )
    assert len(first) == 20 and first[:] == again[:] != other[:]


def test_images_that_resemble_one_of_a_given_test_split_are_left_out(source, tmp_path):
    rows = Dataset.from_parquet(source).cast_column("image", Image(decode=False))
    rows.select(range(8)).to_parquet(tmp_path / "test.parquet")
    pool = Pool.open([source], str(tmp_path / "test.parquet"))
    assert pool.test["image"][:] == rows["image"][:8]
    images = {cell["bytes"] for cell in rows["image"]}
    training = {cell["bytes"] for cell in pool.training["image"]}
    assert training < images and not training & {cell["bytes"] for cell in pool.test["image"]}
    with pytest.raises(ValueError, match=r"^test: cannot load 'nowhere.parquet'"):
        Pool.open([source], "nowhere.parquet")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sizes", "9999", "sizes: 9999 pairs were asked for"),
        ("arms", "other", "arms: there is no 'other'"),
        ("max_steps", "0", "max_steps: must be at least 1"),
        ("image_size", "8", "image_size: must be at least 32 pixels"),
        ("num_general", "9", "num_general: must be at least 10"),
    ],
)
def test_a_wrong_option_is_one_line(source, labelled, teacher_folder, tmp_path, capsys, name, value, message):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments(source, labelled, teacher_folder, tmp_path, "plain"), f"--{name}", value])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_merged_adapters_give_the_same_embeddings_as_before(inputs):
    pytest.importorskip("peft")
    from training.studies.finetuning.adapters import insert, merge

    start = make_model(WHOLE_EFFICIENTNET, NO_DROPOUT, seed=3)
    student = copy.deepcopy(start)
    insert(student, 1)
    adapters = [parameter for name, parameter in student.named_parameters() if "lora_" in name]
    with torch.no_grad():
        for parameter in adapters:
            parameter.add_(0.05 * torch.randn_like(parameter, generator=torch.Generator().manual_seed(2)))
        before = student.eval()(**inputs)
        merge(student)
        after, unchanged = student(**inputs), start.eval()(**inputs)
    assert student.state_dict().keys() == start.state_dict().keys()
    for name in ("image_embeds", "text_embeds"):
        torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-4)
        assert (after[name] - unchanged[name]).abs().max() > 1e-3


def test_adapters_are_trained_and_merged(source, labelled, teacher_folder, tmp_path):
    pytest.importorskip("peft")
    main([*arguments(source, labelled, teacher_folder, tmp_path, "lora"), "--seeds", "1", "--image_size", "32"])
    results = Results.read(tmp_path / RESULTS_FILE)
    assert results.values(model="lora", metric="top1", language="zh") and results.meta["image_size"] == 32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["finetuning.png", RESULTS_FILE]
