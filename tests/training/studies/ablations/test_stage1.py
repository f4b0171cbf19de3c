import json
from dataclasses import replace

import pytest

from tests.training.studies.ablations.comparison import compare
from training.studies.ablations import stage1, stage1_runs
from training.studies.ablations.arms import table
from training.studies.ablations.options import Stage1Options
from training.studies.ablations.stage1_runs import ARMS, Stage1Ablation
from training.utils.results import Results, Row

pytestmark = pytest.mark.slow

LABELS = {
    "target: feature map",
    "text adapter, equal widths: off",
    "text vocabulary: cut to 3000",
    "stages: 2 alone",
    "stages: 1 and 2",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of three steps per arm, with one arm of every kind."""
    folder = tmp_path_factory.mktemp("ablation")
    compare(stage1, stage1_runs, LABELS, folder, "--steps", "3", "--seeds", "0")
    return folder


def test_every_arm_is_measured_on_every_set_in_both_languages(folder):
    results = Results.read(folder / "ablation.json")
    measured = {(row.model, row.set, row.language, row.seed) for row in results.rows if row.metric == "top5"}
    sets = ("unseen_combination", "unseen_style")
    assert measured == {(label, name, language, 0) for label in LABELS for name in sets for language in ("en", "zh")}


def test_meta_has_the_command_and_the_steps(folder):
    meta = json.loads((folder / "ablation.json").read_text(encoding="utf-8"))["meta"]
    assert meta["command"] == "python -m training.studies.ablations.stage1 --seeds 0 --every 40 --steps 3"
    assert meta["steps"] == 3 and meta["seeds"] == [0]


def test_plot_is_written_and_the_runs_are_deleted(folder):
    assert (folder / "ablation.png").stat().st_size > 10_000 and not (folder / "runs").exists()


def test_table_has_mean_and_deviation_over_seeds(folder):
    results = Results.read(folder / "ablation.json")
    fields = {"model": "target: feature map", "set": "unseen_style", "language": "zh", "metric": "top5"}
    (first,) = results.values(**fields)
    results.rows.extend([replace(row, seed=1, value=row.value + 0.1) for row in results.rows])
    (line,) = [line for line in table(results).splitlines() if "| feature map |" in line]
    assert line.endswith(f"{100 * (first + 0.05):.1f} ± 7.1 |")  # of a sample, as in the tables of other studies


def test_every_arm_is_trained_with_every_seed(tmp_path, monkeypatch):
    """The seed of a run is that of its recipes."""
    options = Stage1Options(seeds=[0, 1], every=40, output_dir=str(tmp_path / "runs"))
    run = Stage1Ablation(options, ARMS, stage1.PROGRAM)
    monkeypatch.setattr(run, "_make_multilingual_teacher", lambda: None)

    def train(recipes, seed):
        assert {recipe.seed for recipe in recipes if recipe is not None} == {seed}
        return [Row(model="", metric="top5", value=0.5, seed=seed)]

    monkeypatch.setattr(run, "_train", train)
    measured = {(row.model, row.seed) for row in run.run().rows}
    assert measured == {(arm.label, seed) for arm in ARMS for seed in (0, 1)}


def test_all_arms_have_the_same_number_of_steps():
    run = Stage1Ablation(Stage1Options(seeds=[0], steps=90, every=40), ARMS, stage1.PROGRAM)
    for arm in ARMS:
        stages = [recipe for recipe in run._recipes(arm, 0) if recipe is not None]
        assert sum(recipe.max_steps for recipe in stages) == 90
        assert len(stages) == (2 if arm.stages == "1+2" else 1)
