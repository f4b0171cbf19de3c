"""Every study on a tiny model: rows, a second call that repeats nothing, and options that are refused in one line."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.tiny import SMALL_XLM_ROBERTA, VIT, make_model
from training.data import load_source
from training.studies import ablations, budget, claims, finetuning, probe
from training.studies.__main__ import main
from training.studies.ablations import make_trainer
from training.studies.arms import Trainer
from training.studies.harness import Study, StudyOptions, arms_table, mean_and_spread
from training.utils.results import RESULTS_FILE, Results, Row


def test_an_unknown_study_is_refused(refusal):
    assert "'nowhere'" in refusal(main, "nowhere")


def row(value: float, seed: int, language: str = "en", model: str = "arm") -> Row:
    return Row(model=model, metric="recall", value=value, seed=seed, language=language)


def test_a_table_has_the_mean_and_the_deviation_of_a_sample():
    rows = [
        row(value, seed, language)
        for language in ("en", "zh")
        for seed, value in enumerate((0.1, 0.2, 0.3))
    ]
    table = arms_table(
        Results({}, [*rows, row(0.5, 0, model="other")]), {"R": {"metric": "recall"}}
    )
    assert table.splitlines()[2:] == [
        "| arm | 3 | 20.0 ± 10.0 / 20.0 ± 10.0 |",
        "| other | 1 | 50.0 / - |",
    ]
    assert mean_and_spread([]) == "-"


def test_rows_outlive_a_call_but_not_a_change_of_settings(tmp_path):
    options = StudyOptions(output_dir=str(tmp_path))
    Study("budget", options, "noise", weights="a", train="/data/a.parquet").add([row(0.25, 1)])
    again = Study("budget", options, "noise", weights="a", train="/data/a.parquet")
    assert again.has(seed=1, metric="recall") and not again.has(seed=2)
    with pytest.raises(ValueError, match="weights a, not b"):
        Study("budget", options, "noise", weights="b", train="/data/a.parquet")


def test_rows_of_other_data_of_the_same_name_are_refused(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("flickr", "coco"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.parquet").touch()
    options = StudyOptions(output_dir="out")
    Study("claims", options, "noise", train=str(tmp_path / "flickr/train.parquet")).add(
        [row(0.25, 1)]
    )
    with pytest.raises(ValueError, match=r"output_dir: .*files_digest"):
        Study("claims", options, "noise", train=str(tmp_path / "coco/train.parquet"))


def test_batches_of_texts_are_full_and_padded_to_their_longest():
    ((ids, mask),) = probe.text_batches([[1, 2], [3], [4, 5, 6]], 2, 9)
    assert (
        ids.tolist() == [[1, 2], [3, 9]]
        and mask.tolist() == [[1, 1], [1, 0]]
        and ids.dtype == np.int64
    )


def test_slow_calls_are_timed_three_times_after_one_that_is_not_counted():
    calls: list[int] = []
    rows = probe.time_calls(
        lambda: calls.append(1), [()], "text", {"batch_size": 2}, repeats=50, seconds=0.0
    )
    assert len(calls) == 4 and [each["metric"] for each in rows] == [
        "ms_per_text_p50",
        "ms_per_text_p95",
    ]


@pytest.mark.slow
def test_the_budget_measures_a_student_once(processor, tmp_path, capsys, monkeypatch):
    # the model is prepared in this process, which has imported what it takes
    monkeypatch.setattr(
        budget, "ProcessPoolExecutor", lambda workers, context: ThreadPoolExecutor(workers)
    )
    small = make_model(VIT | {"num_hidden_layers": 1}, SMALL_XLM_ROBERTA)  # fast to trace
    small.save_pretrained(tmp_path / "small")
    processor.save_pretrained(tmp_path / "small")
    command = [
        "budget",
        "--models",
        str(tmp_path / "small"),
        "--backends",
        "onnx-fp32",
        "--threads",
        "1",
    ]
    command += ["--batch_sizes", "1", "64", "--repeats", "3", "--output_dir", str(tmp_path)]
    main(command)
    results, name = Results.read(tmp_path / RESULTS_FILE), "small"
    assert not results.meta["failures"] and results.mean(
        model=name, protocol="onnx-fp32", metric="bytes"
    )
    for protocol in (f"onnx-fp32, threads 1, batch {batch}" for batch in (1, 64)):
        fields = {"model": name, "protocol": protocol}
        for what, language in (("image", None), ("text", "en"), ("text", "zh")):
            p50, p95 = (
                results.mean(**fields, language=language, metric=f"ms_per_{what}_p{q}")
                for q in (50, 95)
            )
            assert 0 < (p50 or 0) <= (p95 or 0)
        assert (
            0 < (results.mean(**fields, metric="peak_bytes") or 0) < 200 * 2**20
        )  # PyTorch alone takes more
    main(command)
    assert Results.read(tmp_path / RESULTS_FILE).rows == results.rows
    assert capsys.readouterr().out.count(f"| {name} | onnx-fp32 | 1 |") == 2


@pytest.fixture
def trainer(corpus, tmp_path) -> Trainer:
    source = str(corpus / "train.parquet")
    held_out = SimpleNamespace(training_data=lambda data: replace(data, train=source))
    return make_trainer(ablations.Options(output_dir=str(tmp_path)), held_out)


def test_all_arms_see_the_same_number_of_images(trainer):
    for arm in ablations.ARMS:
        first = trainer.distill_recipe(arm, 3)
        steps = 0 if first is None else first.max_steps
        if arm.align is not None:
            second = trainer.align_recipe(arm, 3)
            assert second.seed == 3 and second.student == (first.output_dir if first else None)
            steps += second.max_steps
        expected = 240 if arm.name.startswith(("stage 1:", "text tower:")) else 320
        assert steps == expected, arm.name
        assert first is None or first.seed == 3


def test_claims_compare_what_they_say(corpus, tmp_path):
    source = str(corpus / "train.parquet")
    options = claims.Options(train=source, validation=source, output_dir=str(tmp_path))
    trainer, arms = claims.make_trainer(options), {arm.name: arm for arm in claims.arms_of([1])}
    weights = [
        trainer.distill_recipe(arms[f"stage 1, {name}"], 1).map_weight
        for name in ("feature map", "embedding")
    ]
    second = trainer.align_recipe(arms["stage 2, all pairs"], 1)
    assert weights == [1.0, 0.0] and second.class_weight == 0 and second.classifier is None


def test_a_stage_1_of_other_options_is_not_used_again(trainer):
    arm = ablations.ARMS[0]
    folders = [
        each.distill_recipe(arm, 1).output_dir
        for each in (trainer, trainer, replace(trainer, distill_steps=9))
    ]
    assert folders[0] == folders[1] != folders[2]


def test_a_share_of_the_pairs_is_drawn_by_the_seed(trainer, corpus):
    source = str(corpus / "train.parquet")
    everything = set(load_source(source)["zh"])
    first, again, other = (load_source(trainer.pairs(4, seed))["zh"][:] for seed in (1, 1, 2))
    assert first == again != other and set(first) < everything
    assert len(first) == len(load_source(source)) // 4


def test_the_worst_loss_of_fine_tuning_is_in_its_table():
    def rows(model: str, gain: float, loss: float, **fields) -> list[Row]:
        made = []
        for name, metric, value in (
            ("test split", "text_to_image_R@5", 0.2 + gain),
            ("photographs", "image_to_text_R@1", 0.9),
            ("photographs", "text_to_image_R@1", 0.5 - loss),
            ("labelled photographs", "top1", 0.4),
        ):
            made.append(
                Row(model=model, metric=metric, value=value, set=name, language="zh", **fields)
            )
        return made

    results = Results(
        {}, [*rows("start", 0, 0), *rows("default", 0.3, 0.04, stage="200 pairs", seed=1)]
    )
    assert (
        finetuning.table(results).splitlines()[2] == "| 200 pairs, default | 1 | 30.0 | 4.0 | 0.0 |"
    )
