"""The study of the paper's claims: the same start and a tuned rate in every arm, runs that are never repeated."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn

from tests.tiny import VIT, make_model
from training.experiments.studies import claims
from training.experiments.studies.__main__ import main
from training.experiments.studies.claims import (
    Arm,
    Experiment,
    Start,
    arms_of,
    draw_batches,
    table,
    verdicts,
)
from training.utils.results import RESULTS_FILE, Results, Row

RATES = [1e-3, 3e-3]


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
    for name, value in {
        "NUM_HELD_OUT": 8,
        "NUM_PHOTOS": 8,
        "NUM_TEXTS": 60,
        "NUM_LABELED": 8,
    }.items():
        monkeypatch.setattr(claims, name, value)
    monkeypatch.setattr(claims, "STARTS", {"random": claims.STARTS["random"]})
    return folder


def test_frozen_layers_and_the_other_tower_keep_their_weights(monkeypatch):
    start = Start("any", frozen=("vision_model.layers.0.",))
    monkeypatch.setattr(claims, "STARTS", {"some": start})
    model = make_model(VIT)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    adapter = nn.Linear(model.config.projection_dim, 1)
    pixels = torch.rand(2, 3, model.config.image_size, model.config.image_size)

    def loss(rows: Tensor) -> Tensor:
        return adapter(model.get_image_features(pixels[rows]).pooler_output).square().sum()

    batches = [torch.tensor([0, 1])] * 2
    Experiment.fit(None, model, adapter.parameters(), ["vision"], "some", loss, batches, 1e-2)
    changed = {name for name, each in model.state_dict().items() if not each.equal(before[name])}
    assert "visual_projection.weight" in changed and not model.training
    assert not any(name.startswith(("text_", *start.frozen)) for name in changed)
    assert any(name.startswith("vision_model.layers.1.") for name in changed)


@pytest.mark.slow
def test_every_arm_is_trained_once_with_rates_that_are_tuned(
    photos, teacher_folder, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "claims"
    command = ["claims", "--photos", str(photos), "--teacher", str(teacher_folder)]
    command += ["--seeds", "1", "--distill_steps", "2", "--align_steps", "1", "--batch_size", "4"]
    command += ["--shares", "4", "--rates", *map(str, RATES), "--output_dir", str(folder)]
    main(command)
    results = Results.read(folder / RESULTS_FILE)
    for arm in arms_of([4]):
        for name in claims.SETS:
            assert results.values(model=arm.name, set=name, language="zh", seed=1), arm
    tuned = {row.model for row in results.rows if row.stage == "tuning"}
    assert "map, stage 1 of text, rate 0.003" in tuned
    assert "stage 2 alone, equal steps, rate 0.001" in tuned
    assert (folder / "results.png").exists()
    assert "Both stages beat stage 2 alone, equal time, random" in capsys.readouterr().out

    monkeypatch.setattr(claims.Experiment, "fit", None)  # a run that is repeated fails
    main(command)
    assert Results.read(folder / RESULTS_FILE).rows == results.rows

    (folder / RESULTS_FILE).unlink()
    with pytest.raises(TypeError):  # no tower that was trained for more steps is used
        main([*command, "--distill_steps", "1"])


def test_batches_of_an_epoch_have_every_row_at_most_once():
    batches = draw_batches(torch.arange(10), 4, 5, seed=0)
    assert [len(batch) for batch in batches] == [4] * 5
    for first, second in (batches[0:2], batches[2:4]):
        assert len(torch.cat([first, second]).unique()) == 8
    assert all(
        a.equal(b)
        for a, b in zip(batches, draw_batches(torch.arange(10), 4, 5, seed=0), strict=True)
    )


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
        ([0.3, 0.4, 0.5], [0.5, 0.4, 0.3], "+0.0 ± 49.7: open"),
        ([0.3], [0.2], "-"),
    ],
)
def test_a_claim_holds_if_its_interval_over_seeds_is_above_zero(maps, logits, outcome):
    found = verdicts(results_of({Arm("map").name: maps, Arm("logits").name: logits}))
    assert f"| Feature maps teach more than logits, random | - | {outcome} | - |" in found
