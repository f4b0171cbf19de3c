"""What the card of a model claims about its origin, after each way to train one.

`test_finetuning.py` states the claims after fine-tuning: in one language, without an anchor, interpolated.
"""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests.tiny import MOBILENET, make_model, recipe_fields, student_config
from training.config import AlignRecipe, DistillRecipe, TrainingRecipe, save_recipe
from training.hub.cards import write_card
from training.hub.hub_model import HubModel

TEACHER = {"teacher": "some/teacher", "teacher_license": "cc-by-nc-4.0"}
MATCHED = "dimensions, trained to match the teacher's embeddings |"
STAGES = "from the teacher `some/teacher`: "


def distill_recipe(folder: Path, **fields) -> DistillRecipe:
    fields = {"student": student_config(), "teacher": "some/teacher"} | fields
    return DistillRecipe(**recipe_fields(folder / "mine", "some/images"), **fields)


def align_recipe(folder: Path, **fields) -> AlignRecipe:
    fields = {"student": "runs/distilled", "teacher": "some/teacher"} | fields
    return AlignRecipe(**recipe_fields(folder / "mine", "some/pairs"), **fields)


@pytest.fixture
def text_of(tmp_path, processor):
    """Function from the recipe of a model, and the one of its earlier stage, to the card."""

    def render(recipe: TrainingRecipe, earlier: TrainingRecipe | None = None, **config) -> str:
        HubModel(make_model(MOBILENET, languages=["en", "zh"], **config), processor, recipe).save(tmp_path)
        if earlier is not None:
            save_recipe(earlier, tmp_path)
            (tmp_path / "recipe.yaml").rename(tmp_path / "recipe_distill.yaml")
            save_recipe(recipe, tmp_path)
            write_card(tmp_path)
        return ModelCard.load(tmp_path / "README.md").text

    return render


def test_both_stages_with_an_anchor(text_of, tmp_path):
    text = text_of(align_recipe(tmp_path, anchor_weight=1.0), distill_recipe(tmp_path), **TEACHER)
    assert f"{STAGES}feature-map distillation, then contrastive alignment." in text and MATCHED in text
    assert "Data: `some/images`, `some/pairs`. Languages: English and Chinese." in text
    assert "licensed under `cc-by-nc-4.0`" in text


def test_distilled_only(text_of, tmp_path):
    text = text_of(distill_recipe(tmp_path), **TEACHER)
    assert f"{STAGES}feature-map distillation." in text and MATCHED in text
    assert "alignment" not in text and "some/pairs" not in text


def test_aligned_only_without_a_teacher(text_of, tmp_path):
    text = text_of(align_recipe(tmp_path, teacher=None, student=None, new_student=student_config()))
    claims = (
        "from the teacher",
        "the teacher's embeddings",
        "comparable",
        "distillation",
        "and the teacher associate",
    )
    assert not [claim for claim in claims if claim in text] and "dimensions |" in text
    assert "- `recipe.yaml`: contrastive alignment; " in text


def test_aligned_only_with_a_teacher_of_similarities(text_of, tmp_path):
    recipe = align_recipe(tmp_path, affinity_weight=1.0, student=None, new_student=student_config())
    text = text_of(recipe, **TEACHER)
    assert f"{STAGES}contrastive alignment." in text
    assert "dimensions, not comparable with the teacher's |" in text and MATCHED not in text


def test_alignment_without_an_anchor_after_the_distillation(text_of, tmp_path):
    text = text_of(align_recipe(tmp_path), distill_recipe(tmp_path), **TEACHER)
    claim = "trained to match the teacher's embeddings before the alignment, which had no anchor to them |"
    assert f"dimensions, {claim}" in text and MATCHED not in text


def test_distilled_from_feature_maps_alone(text_of, tmp_path):
    distilled = distill_recipe(tmp_path, embedding_weight=0.0)
    claim = "dimensions, not comparable with the teacher's |"
    assert claim in text_of(distilled, **TEACHER) and claim in text_of(align_recipe(tmp_path), distilled, **TEACHER)
    assert MATCHED in text_of(align_recipe(tmp_path, anchor_weight=1.0), distilled, **TEACHER)
    assert MATCHED in text_of(distill_recipe(tmp_path, embedding_weight=0.0, target="logits"), **TEACHER)


def test_distilled_in_one_tower_or_in_both(text_of, tmp_path):
    images, texts = (distill_recipe(tmp_path, tower=tower) for tower in ("vision", "text"))
    assert "dimensions, those of images alone trained to match the teacher's" in text_of(images, **TEACHER)
    assert "dimensions, those of texts alone trained to match the teacher's" in text_of(texts, **TEACHER)
    assert "alone" not in text_of(texts, images, **TEACHER) and MATCHED in text_of(texts, images, **TEACHER)
    claim = "those of images alone trained to match the teacher's embeddings before the alignment, which had no anchor"
    assert claim in text_of(align_recipe(tmp_path), images, **TEACHER)
    maps_alone = distill_recipe(tmp_path, tower="vision", embedding_weight=0.0)
    assert "dimensions, those of texts alone trained" in text_of(texts, maps_alone, **TEACHER)
