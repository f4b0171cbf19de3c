"""What the card of a fine-tuned model claims, in each case."""

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from tests.tiny import MOBILENET, make_model, recipe_fields
from training.config import AlignRecipe, DataConfig
from training.hub.cards import write_card
from training.hub.cards.notice import weights_terms
from training.hub.hub_model import HubModel
from training.utils.results import Results, Row

START = {"base_model": "me/start", "base_model_license": "cc-by-nc-4.0"}
MEASURED = {
    "data": "/home/me/titles.csv",
    "cosine_to_start": {"images": 0.91234, "texts": 0.95},
    "curve": [{"weight": 0.0, "validation": 0.25, "general": {"general texts": 0.25}}],
}
ROWS = [
    Row(model="student", stage=stage, set=name, protocol=protocol, language="zh", metric=metric, value=value)
    for stage, value in (("start", 0.25), ("finetuned", 0.5))
    for name, protocol, metric in (
        ("validation", "retrieval", "text_to_image_R@1"), ("general texts", "text to text", "text_to_text_R@1")
    )
]  # fmt: skip


@pytest.fixture
def card_of(tmp_path, processor):
    """Function from the fields that differ to the card of a model that was fine-tuned on Chinese captions."""

    def render(config: dict | None = None, measured: dict | None = None, **fields) -> ModelCard:
        model = make_model(
            MOBILENET, **(START | {"teacher": "some/teacher", "languages": ["en", "zh"]} | (config or {}))
        )
        recipe = AlignRecipe(**recipe_fields(tmp_path / "mine", "data/train.parquet", student="me/start"))
        data = DataConfig(train="data/train.parquet", caption_columns={"zh": "zh"})
        recipe = replace(recipe, data=data, language_weights={"zh": 1.0}, **fields)
        HubModel(model, processor, recipe).save(tmp_path)
        if measured is not None:
            write_card(tmp_path, Results({"command": "finetune", "finetune": MEASURED | measured}, ROWS))
        return ModelCard.load(tmp_path / "README.md")

    return render


def test_one_language_with_an_anchor(card_of):
    card = card_of(teacher="me/start", anchor_weight=1.0)
    assert (
        "Fine-tuned with DC-CLIP from `me/start` (licence `cc-by-nc-4.0`) on images with Chinese captions: "
        "contrastive alignment, with an anchor to the embeddings of that model."
    ) in card.text
    assert (
        "dimensions, held close to those of `me/start` |" in card.text and "also held to that model" not in card.text
    )
    assert "Languages of the captions: Chinese.\n" in card.text and "| languages | English, Chinese |" in card.text
    assert "Not evaluated yet." in card.text and "WiSE-FT" not in card.text
    assert card.data.base_model == ["me/start"] and card.data.base_model_relation == "finetune"
    assert card.data.license == "cc-by-nc-4.0"
    assert "trained to match the teacher's" not in card.text and "distilled from" not in card.text


def test_what_held_it_beyond_the_data_is_named(card_of):
    text = card_of(teacher="me/start", anchor_weight=1.0, general_weight=1.0, photo_weight=3.0).text
    assert (
        "It was also held to that model on class names that come with DC-CLIP and crops of free photographs from "
        "scikit-image, scikit-learn and matplotlib."
    ) in text
    assert "free photographs" not in card_of(teacher="me/start", general_weight=1.0).text
    general = card_of(teacher="me/start", photo_weight=3.0, photos="/home/me/data/general/train.parquet").text
    assert "held to that model on other images, without captions." in general and "free photographs" not in general


def test_without_an_anchor_its_embeddings_are_not_comparable(card_of):
    card = card_of({"teacher": None}, {"weight": 1.0})
    assert "without an anchor to the embeddings of that model." in card.text
    measured = "(mean cosine 0.912 for images, 0.950 for captions of the validation split)"
    assert f"dimensions, not comparable with those of `me/start` {measured} |" in card.text
    assert "distillation" not in card.data.tags and "held close" not in card.text
    assert "The training data and the model that it started from associate" in card.text


def test_a_rotation_of_the_space_of_the_start_is_not_one_of_a_teacher(card_of):
    text = card_of({"rotation": "0" * 16}).text
    assert "`truncate_dim=N` in" in text and "teacher_embeddings @ rotation" not in text


def test_interpolated_weights_are_named_with_the_condition(card_of):
    card = card_of(None, {"weight": 0.6}, teacher="me/start", anchor_weight=1.0)
    assert "The weights are those of `me/start` plus 0.6 of their change in training (WiSE-FT" in card.text
    assert "accuracy on general texts falls by at most 1 point." in card.text
    assert "Data: `titles.csv`." in card.text and "/home" not in card.text and "train.parquet" not in card.text
    assert "before (`start`) and after (`finetuned`), on a validation split" in card.text
    assert "| student, start | 25.0 | 25.0 |" in card.text and "| student, finetuned | 50.0 | 50.0 |" in card.text
    assert {result.metric_value for result in card.data.eval_results} == {0.5}


def test_all_sets_that_were_kept_are_named(card_of):
    kept = {"general texts": 0.25, "general images": 0.5}
    measured = {"weight": 0.6, "curve": [{"weight": 0.0, "validation": 0.25, "general": kept}]}
    text = card_of(None, measured, teacher="me/start", anchor_weight=1.0).text
    assert "accuracy on general texts and general images falls by at most 1 point." in text


def test_measured_sets_and_an_early_stop_are_named(card_of):
    both = {
        "steps": 40,
        "curve": [{"weight": 0.0, "validation": 0.2, "general": {"general texts": 0, "general images": 0}}],
    }
    text = card_of(None, both, max_steps=100).text
    assert "a validation split of the data, on a validation split of `--general_data` and on general texts" in text
    assert "stopped early after 40 of 100 steps, batch size" in text
    text = card_of(None, {"steps": 100}, max_steps=100).text
    assert (
        "on a validation split of the data and on general texts" in text and "contrastive alignment; 100 steps" in text
    )


def test_a_run_without_a_gain_says_that_the_weights_are_those_of_the_start(card_of):
    text = card_of(None, {"weight": 0.0}, teacher="me/start", anchor_weight=1.0).text
    assert "The weights equal those of `me/start`" in text and "of their change" not in text


@pytest.mark.parametrize(
    ("base_license", "teacher_license", "claims"),
    [
        ("apache-2.0", None, ["under `apache-2.0`. The same terms also apply"]),
        (None, None, ["which names no licence"]),
        ("cc-by-4.0", "creativeml-openrail-m", ["`cc-by-4.0` and `creativeml-openrail-m`", "use restrictions"]),
    ],
)
def test_licences_of_the_start_and_of_its_teacher_apply(base_license, teacher_license, claims):
    terms = weights_terms(None, teacher_license, "/somewhere/start", base_license)
    assert terms.startswith("The weights are fine-tuned from `start`")
    assert all(claim in terms for claim in claims)


def test_folder_has_the_terms_in_its_notice(card_of, tmp_path):
    card_of()
    assert "fine-tuned from `me/start`, whose weights are licensed under `cc-by-nc-4.0`" in (
        tmp_path / "NOTICE.md"
    ).read_text(encoding="utf-8")
