import json

import pytest

from tests.training.studies.ablations.comparison import compare
from training.studies.ablations import stage2, stage2_runs
from training.studies.ablations.options import Stage2Options
from training.studies.ablations.stage2_runs import ARMS, Stage2Ablation
from training.utils.results import Results

pytestmark = pytest.mark.slow

STAGE_1_ALONE = ("no stage 2: stage 1 for the same number of steps", "stage 1: starting point")
LABELS = ("no stage 1: InfoNCE", *STAGE_1_ALONE, "stage 1: InfoNCE, text-text")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of three and two steps, with one arm of every kind."""
    folder = tmp_path_factory.mktemp("alignment")
    compare(stage2, stage2_runs, LABELS, folder, "--distil_steps", "3", "--align_steps", "2", "--seeds", "0")
    return folder


def test_every_arm_is_measured_with_every_seed_on_every_set_in_both_languages(folder):
    results = Results.read(folder / "alignment.json")
    sets = ("unseen_combination", "unseen_style")
    expected = {(label, name, language, 0) for label in LABELS for name in sets for language in ("en", "zh")}
    for metric in ("top5", "top5_teacher_texts"):
        measured = {(row.model, row.set, row.language, row.seed) for row in results.rows if row.metric == metric}
        assert measured == expected
    distilled = {row.model for row in results.rows if row.stage == "distilled"}
    assert distilled == set(STAGE_1_ALONE)


def test_meta_has_the_command_and_the_runs_are_deleted(folder):
    meta = json.loads((folder / "alignment.json").read_text(encoding="utf-8"))["meta"]
    assert meta["command"].startswith("python -m training.studies.ablations.stage2 --seeds 0 ")
    assert meta["steps"] == "3 + 2"
    assert (folder / "alignment.png").stat().st_size > 10_000 and not (folder / "runs").exists()


def test_arms_differ_only_in_their_terms_and_use_the_same_number_of_images():
    run = Stage2Ablation(Stage2Options(seeds=[0], every=40), ARMS, stage2.PROGRAM)
    distil_recipe = run._distil(0, run.options.distil_steps, "distilled")
    recipes = {
        arm.label: run._align(arm, arm.losses, distil_recipe)
        for arm in ARMS
        if arm.losses is not None and arm.only != "distil"
    }
    alone = recipes.pop("no stage 1: InfoNCE")
    assert alone.student is None and alone.max_steps == 320 and alone.anchor_weight == 0
    weights = ("anchor_weight", "affinity_weight", "interactive_weight", "text_text_weight")
    terms = {label: tuple(getattr(recipe, name) for name in weights) for label, recipe in recipes.items()}
    assert terms["stage 1: InfoNCE"] == (0, 0, 0, 0) and terms["stage 1: InfoNCE, affinity"] == (0, 1, 0, 0)
    for recipe in recipes.values():
        assert recipe.max_steps == 80 and recipe.student == distil_recipe.output_dir
