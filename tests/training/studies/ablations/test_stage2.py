import json

import pytest

from tests.training.studies.ablations.comparison import compare
from training.studies.ablations import stage2 as alignment
from training.utils.results import Results

LABELS = ("no stage 1: InfoNCE", "no stage 2: stage 1 for as long", "stage 1: as it is", "stage 1: InfoNCE, text-text")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three and two steps, and one arm of every kind."""
    folder = tmp_path_factory.mktemp("alignment")
    compare(alignment, LABELS, folder, "--distil_steps", "3", "--align_steps", "2", "--seeds", "0")
    return folder


def test_every_arm_is_measured_with_every_seed_on_every_set_in_both_languages(folder):
    results = Results.read(folder / "alignment.json")
    sets = ("unseen_combination", "unseen_style")
    expected = {(label, name, language, 0) for label in LABELS for name in sets for language in ("en", "zh")}
    for metric in ("top5", "top5_teacher_reads"):
        found = {(row.model, row.set, row.language, row.seed) for row in results.rows if row.metric == metric}
        assert found == expected
    distilled = {row.model for row in results.rows if row.stage == "distilled"}
    assert distilled == {"stage 1: as it is", "no stage 2: stage 1 for as long"}


def test_meta_holds_the_command_the_plot_is_there_and_the_runs_are_gone(folder):
    meta = json.loads((folder / "alignment.json").read_text(encoding="utf-8"))["meta"]
    assert meta["command"].startswith("python -m training.studies.ablations.stage2 --seeds 0 ")
    assert meta["steps"] == "3 + 2"
    assert (folder / "alignment.png").stat().st_size > 10_000 and not (folder / "runs").exists()


def test_arms_differ_in_their_terms_alone_and_none_has_seen_more_images():
    run = alignment.Alignment(alignment.AlignmentOptions(seeds=[0], every=40), alignment.ARMS, alignment.MODULE)
    distil_recipe = run._distil(0, run.options.distil_steps, "distilled")
    in_stage_2 = [arm for arm in alignment.ARMS if arm.changes is not None and arm.only != "distil"]
    recipes = {arm.label: run._align(arm, distil_recipe) for arm in in_stage_2}
    alone = recipes.pop("no stage 1: InfoNCE")
    assert alone.student is None and alone.max_steps == 320 and alone.anchor_weight == 0
    weights = ("anchor_weight", "affinity_weight", "interactive_weight", "text_text_weight")
    terms = {label: tuple(getattr(recipe, name) for name in weights) for label, recipe in recipes.items()}
    assert terms["stage 1: InfoNCE"] == (0, 0, 0, 0) and terms["stage 1: InfoNCE, affinity"] == (0, 1, 0, 0)
    for recipe in recipes.values():
        assert recipe.max_steps == 80 and recipe.student == distil_recipe.output_dir
