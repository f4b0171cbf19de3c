import json

import pytest

from tests.training.studies.ablations.comparison import compare
from training.data import load_source
from training.studies.ablations import pairs, pairs_arms
from training.studies.ablations.options import PairsOptions
from training.studies.ablations.pairs_arms import ARMS
from training.studies.ablations.stage2_runs import Stage2Ablation
from training.utils.results import Results

pytestmark = pytest.mark.slow

LABELS = ("a quarter of the pairs: InfoNCE alone", "a quarter of the pairs: stage 1, InfoNCE and anchor")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of two steps per stage."""
    folder = tmp_path_factory.mktemp("pairs")
    compare(pairs, pairs_arms, LABELS, folder, "--distil_steps", "2", "--align_steps", "2", "--seeds", "0")
    return folder


def test_every_arm_is_measured_and_the_runs_are_deleted(folder):
    results = Results.read(folder / "pairs.json")
    assert {row.model for row in results.rows} == set(LABELS)
    assert json.loads((folder / "pairs.json").read_text(encoding="utf-8"))["meta"]["steps"] == "2 + 2"
    assert (folder / "pairs.png").stat().st_size > 10_000 and not (folder / "runs").exists()


def test_stage_2_uses_the_pairs_of_some_concepts_and_stage_1_uses_all(tmp_path):
    options = PairsOptions(seeds=[0], every=40, output_dir=str(tmp_path))
    run = Stage2Ablation(options, ARMS, pairs.PROGRAM)
    distil_recipe = run._distil(0, 240, "distilled")
    everything = load_source(distil_recipe.data.train)
    concepts = list(dict.fromkeys(everything["group"]))
    for arm in ARMS:
        recipe = run._align(arm, arm.losses, distil_recipe)
        rows = load_source(recipe.data.train)
        assert set(rows["group"]) == set(concepts[:: arm.concept_stride])
        assert (recipe.data == distil_recipe.data) is (arm.concept_stride == 1)
        assert (recipe.teacher_cache == distil_recipe.teacher_cache) is (arm.concept_stride == 1)
        assert recipe.max_steps == (320 if arm.only else 80)
    few = load_source(run._align(ARMS[-1], ARMS[-1].losses, distil_recipe).data.train)
    first = everything.filter(lambda row: row["group"] == concepts[0])
    assert few.filter(lambda row: row["group"] == concepts[0]).to_dict() == first.to_dict()
