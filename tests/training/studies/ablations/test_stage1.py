import json
from dataclasses import replace

import pytest

from tests.training.studies.ablations.comparison import compare
from training.studies.ablations import stage1 as ablation
from training.studies.ablations.arms import table
from training.utils.results import Results, Row

LABELS = {
    "target: feature map",
    "text adapter, equal widths: off",
    "text vocabulary: cut to 3000",
    "stages: 2 alone",
    "stages: 1 and 2",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three steps an arm, and one arm of every kind."""
    folder = tmp_path_factory.mktemp("ablation")
    compare(ablation, LABELS, folder, "--steps", "3", "--seeds", "0")
    return folder


def test_every_arm_is_measured_on_every_set_in_both_languages(folder):
    results = Results.read(folder / "ablation.json")
    found = {(row.model, row.set, row.language, row.seed) for row in results.rows if row.metric == "top5"}
    sets = ("unseen_combination", "unseen_style")
    assert found == {(label, name, language, 0) for label in LABELS for name in sets for language in ("en", "zh")}


def test_meta_holds_the_command_and_the_steps(folder):
    meta = json.loads((folder / "ablation.json").read_text(encoding="utf-8"))["meta"]
    assert meta["command"] == "python -m training.studies.ablations.stage1 --seeds 0 --every 40 --steps 3"
    assert meta["steps"] == 3 and meta["seeds"] == [0]


def test_plot_is_there_and_the_runs_are_gone(folder):
    assert (folder / "ablation.png").stat().st_size > 10_000 and not (folder / "runs").exists()


def test_table_gives_mean_and_deviation_over_seeds(folder):
    results = Results.read(folder / "ablation.json")
    wanted = {"model": "target: feature map", "set": "unseen_style", "language": "zh", "metric": "top5"}
    (first,) = results.values(**wanted)
    results.rows.extend([replace(row, seed=1, value=row.value + 0.1) for row in results.rows])
    (line,) = [line for line in table(results).splitlines() if "| feature map |" in line]
    assert line.endswith(f"{100 * (first + 0.05):.1f} ± 5.0 |")


def test_every_arm_is_trained_with_every_seed(tmp_path, monkeypatch):
    """What is trained with a seed is told by its recipes."""
    run = ablation.Ablation(ablation.AblationOptions(seeds=[0, 1], every=40, output_dir=str(tmp_path / "runs")))
    monkeypatch.setattr(run, "_make_multilingual_teacher", lambda: None)

    def train(distil_recipe, align_recipe, seed):
        assert {recipe.seed for recipe in (distil_recipe, align_recipe) if recipe is not None} == {seed}
        return [Row(model="", metric="top5", value=0.5, seed=seed)]

    monkeypatch.setattr(run, "_train", train)
    found = {(row.model, row.seed) for row in run.run().rows}
    assert found == {(arm.label, seed) for arm in ablation.ARMS for seed in (0, 1)}


def test_all_arms_train_as_many_steps():
    run = ablation.Ablation(ablation.AblationOptions(seeds=[0], steps=90, every=40))
    for arm in ablation.ARMS:
        stages = [recipe for recipe in run._recipes(arm, 0) if recipe is not None]
        assert sum(recipe.max_steps for recipe in stages) == 90
        assert len(stages) == (2 if arm.stages == "1+2" else 1)
