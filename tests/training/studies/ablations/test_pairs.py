import json

import pytest

from tests.training.studies.ablations.comparison import compare
from training.data import load_source
from training.studies.ablations import pairs
from training.studies.ablations.stage2 import Alignment
from training.utils.results import Results

LABELS = ("a quarter of the pairs: InfoNCE alone", "a quarter of the pairs: stage 1, InfoNCE and anchor")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two steps a stage."""
    folder = tmp_path_factory.mktemp("pairs")
    compare(pairs, LABELS, folder, "--distil_steps", "2", "--align_steps", "2", "--seeds", "0")
    return folder


def test_every_arm_is_measured_and_drawn_and_the_runs_are_gone(folder):
    results = Results.read(folder / "pairs.json")
    assert {row.model for row in results.rows} == set(LABELS)
    assert json.loads((folder / "pairs.json").read_text(encoding="utf-8"))["meta"]["steps"] == "2 + 2"
    assert (folder / "pairs.png").stat().st_size > 10_000 and not (folder / "runs").exists()


def test_stage_2_has_the_pairs_of_some_concepts_and_stage_1_has_all(tmp_path):
    options = pairs.PairsOptions(seeds=[0], every=40, output_dir=str(tmp_path))
    run = Alignment(options, pairs.ARMS, pairs.MODULE)
    distil_recipe = run._distil(0, 240, "distilled")
    everything = load_source(distil_recipe.data.train)
    concepts = list(dict.fromkeys(everything["group"]))
    for arm in pairs.ARMS:
        recipe = run._align(arm, distil_recipe)
        rows = load_source(recipe.data.train)
        assert set(rows["group"]) == set(concepts[:: arm.pairs_of])
        assert (recipe.data == distil_recipe.data) is (arm.pairs_of == 1)
        assert (recipe.teacher_cache == distil_recipe.teacher_cache) is (arm.pairs_of == 1)
        assert recipe.max_steps == (320 if arm.only else 80)
    few = load_source(run._align(pairs.ARMS[-1], distil_recipe).data.train)
    first = everything.filter(lambda row: row["group"] == concepts[0])
    assert few.filter(lambda row: row["group"] == concepts[0]).to_dict() == first.to_dict()
