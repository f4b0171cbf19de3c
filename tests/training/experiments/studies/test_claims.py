"""The study of the paper's claims: the same start and a tuned rate in every arm, runs that are never repeated."""

from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset

from training.experiments.studies import claims
from training.experiments.studies.__main__ import main
from training.experiments.studies.claims import (
    Arm,
    table,
    verdicts,
)
from training.utils.results import RESULTS_FILE, Results, Row


@pytest.fixture
def photos(train_rows: Dataset, tmp_path: Path, monkeypatch) -> Path:
    """A folder with a few emoji under the names of the data files, and constants that fit them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = train_rows.select(range(24))
    captioned = {
        "image": rows["image"],
        "en": [[text] for text in rows["en"]],
        "zh": [[text] for text in rows["zh"]],
    }
    for name in (claims.PAIRS, claims.RETRIEVAL):
        Dataset.from_dict(captioned).to_parquet(folder / name)
    Dataset.from_dict({"image": rows["image"]}).to_parquet(folder / claims.MORE_PHOTOS)
    for name in claims.MORE_TEXTS:
        Dataset.from_dict({"en": rows["en"], "zh": rows["zh"]}).to_parquet(folder / name)
    labeled = {
        "image": rows["image"],
        "label": list(range(24)),
        "en": rows["en"],
        "zh": rows["zh"],
    }
    for name in claims.LABELED.values():
        Dataset.from_dict(labeled).to_parquet(folder / name)
    monkeypatch.setattr(claims, "NUM_LABELED", 8)
    monkeypatch.setattr(claims, "LOWER_LAYERS", ())
    return folder


@pytest.mark.slow
def test_arms_run_by_the_scripts_and_are_never_repeated(
    photos, teacher_folder, tmp_path, monkeypatch, capsys
):
    # photographs without captions have no logits to compare with
    arms = [Arm("logits", aligned=False), Arm(claims.BEST), Arm(None), Arm(None, equal_time=True)]
    folder = tmp_path / "claims"
    command = ["claims", "--photos", str(photos), "--teacher", str(teacher_folder)]
    command += ["--seeds", "1", "--steps", "4", "--batch_size", "4", "--views", "1"]
    command += ["--image_size", "64", "--output_dir", str(folder), "--starts", "teacher"]
    command += ["--arms", *(arm.name for arm in arms)]
    main(command)
    results = Results.read(folder / RESULTS_FILE)
    for arm in arms:
        for name in claims.SETS:
            assert results.values(model=arm.name, set=name, language="zh", seed=1), arm
    timed = {row.model for row in results.rows if row.metric == claims.SECONDS}
    assert timed >= {*claims.RUNS_OF_BEST, "initial-aligned", "initial-aligned, equal time"}
    assert "teacher: stage 2 alone, equal time" in capsys.readouterr().out

    monkeypatch.setattr(claims.Experiment, "train", None)  # nothing is trained again
    main(command)
    assert Results.read(folder / RESULTS_FILE).rows == results.rows
    for changed, message in ((["--steps", "5"], "steps: 4, now 5"), ([], "'no', now 'bf16'")):
        if not changed:
            monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
        with pytest.raises(SystemExit):
            main([*command, *changed])
        assert message in capsys.readouterr().err


def test_an_unknown_arm_is_refused_with_all_names(photos, refusal):
    message = refusal(main, "claims", "--photos", str(photos), "--arms", "map")
    assert "arms: there is no 'map'" in message and "map, both stages" in message
    compared = {name for _, *names in claims.CLAIMS for name in names}
    assert {name for name in compared if "1/16" not in name} <= claims.ARMS.keys()
    command = ["claims", "--photos", str(photos), "--arms", "stage 2 alone, equal time"]
    assert "Add this arm" in refusal(main, *command)


def results_of(values: dict[str, list[float]]) -> Results:
    """Results on one set, by arm and seed, the same in both languages."""
    rows = []
    for name, (seed, value), language in (
        (name, each, language)
        for name, by_seed in values.items()
        for each in enumerate(by_seed)
        for language in ("en", "zh")
    ):
        row = Row(model=name, metric="top1", value=value, set="cifar-10", language=language)
        rows.append(replace(row, protocol="random", seed=seed))
    return Results({}, rows)


def test_a_table_has_the_mean_and_the_deviation_over_seeds():
    assert "| random: map, both stages | - / - | 20.0 ± 10.0 / 20.0 ± 10.0 |" in table(
        results_of({"map, both stages": [0.1, 0.2, 0.3]})
    )


@pytest.mark.parametrize(
    ("maps", "logits", "outcome"),
    [
        ([0.3, 0.4, 0.5], [0.2, 0.3, 0.4], "+10.0 ± 0.0: yes"),
        ([0.2, 0.3, 0.4], [0.3, 0.4, 0.5], "-10.0 ± 0.0: no"),
        ([0.3, 0.4, 0.5], [0.5, 0.4, 0.3], "+0.0 ± 49.7"),
        ([0.3], [0.2], None),  # one seed tells nothing
    ],
)
def test_a_claim_holds_if_its_interval_over_seeds_is_above_zero(maps, logits, outcome):
    found = verdicts(results_of({Arm("map").name: maps, Arm("logits").name: logits}))
    row = f"| Maps beat logits, random | - | {outcome} | - |"
    assert (row in found) == ("Maps" in found) == (outcome is not None)
