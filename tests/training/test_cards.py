import pytest
from huggingface_hub import ModelCard

from modeling_dcclip import DCCLIPModel
from tests.tiny import MOBILENET, make_model, recipe_fields, student_config
from training.cards import count_parameters, write_card
from training.checkpoint import Artefact
from training.config import DistillRecipe
from training.results import Results, Row


@pytest.fixture
def folder(tmp_path, processor):
    fields = recipe_fields(tmp_path / "dcclip-tiny", "some/pictures", teacher="some/teacher", student=student_config())
    model = make_model(MOBILENET, teacher="some/teacher", teacher_license="creativeml-openrail-m")
    Artefact(model, processor, DistillRecipe(**fields)).save(tmp_path)
    return tmp_path


def test_front_matter_says_what_the_hub_asks_for(folder):
    data = ModelCard.load(folder / "README.md").data
    assert sorted(data.language) == ["en", "zh"]
    assert data.pipeline_tag == "zero-shot-image-classification" and data.library_name == "transformers"
    assert data.license == "creativeml-openrail-m"  # the teacher's passes on
    assert "dcclip" in data.tags


def test_without_results_the_card_says_so(folder):
    card = ModelCard.load(folder / "README.md")
    assert "Not evaluated yet." in card.text and not card.data.eval_results


def test_size_on_the_card_is_that_of_the_model(folder):
    model = DCCLIPModel.from_pretrained(folder)
    assert count_parameters(folder) == model.num_parameters()
    text = ModelCard.load(folder / "README.md").text
    assert f"| parameters | {model.num_parameters():,} |" in text
    assert f"| weights | {(folder / 'model.safetensors').stat().st_size:,} bytes |" in text


def test_results_stand_in_the_text_and_in_the_front_matter(folder):
    row = Row("student", "aligned", "unseen_style", "class-names", "zh", "top5", 0.4321, 0, (0.4, 0.5))
    size = Row("student", "aligned", None, None, None, "parameters", 5)
    write_card(folder, Results({}, [row, size]), title="a-title", attribution="Drawn by *somebody*.")
    card = ModelCard.load(folder / "README.md")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_type) == ("top5", 0.4321, "unseen_style")
    assert "| student, aligned | 43.2 |" in card.text and "Drawn by *somebody*." in card.text
    assert "# a-title" in card.text and "Not evaluated yet." not in card.text


def test_languages_stay_apart_in_the_front_matter(folder):
    rows = [
        Row("student", "aligned", "a_set", "class-names", lang, "top1", value)
        for lang, value in (("en", 0.1), ("zh", 0.2))
    ]
    write_card(folder, Results({}, rows))
    found = ModelCard.load(folder / "README.md").data.eval_results
    assert {(result.dataset_config, result.metric_value) for result in found} == {("en", 0.1), ("zh", 0.2)}


def test_teacher_and_data_are_named(folder):
    text = ModelCard.load(folder / "README.md").text
    assert "some/teacher" in text and "some/pictures" in text
