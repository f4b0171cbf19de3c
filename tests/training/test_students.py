import pytest
import torch

from modeling_dcclip import DCCLIPProcessor
from tests.tiny import (
    CUT_EFFICIENTNET,
    MOBILENET,
    PROJECTION_DIM,
    RESNET,
    WHOLE_EFFICIENTNET,
    WHOLE_MOBILENET,
    XLM_ROBERTA,
    make_model,
    student_config,
)
from training.students import build_student, inherit_weights, load_student, load_tokenizer
from training.teachers import Teacher

LANGUAGES = ["en", "zh"]


@pytest.fixture(scope="module")
def efficientnet(processor) -> Teacher:
    model = make_model(WHOLE_EFFICIENTNET, seed=3, teacher_license="apache-2.0")
    return Teacher(model, processor.tokenizer, processor.image_processor, "tiny-efficientnet")


@torch.no_grad()
def test_a_cut_backbone_inherits_the_teachers_stages(efficientnet, inputs):
    wanted = student_config(vision_config=CUT_EFFICIENTNET, inherit="teacher")
    student, _ = build_student(wanted, LANGUAGES, efficientnet)
    backbone = efficientnet.model.vision_model.timm_model
    # the first five of seven stages, run by hand
    expected = backbone.bn1(backbone.conv_stem(inputs["pixel_values"]))
    for stage in backbone.blocks[:5]:
        expected = stage(expected)
    found = student.eval().get_image_features(inputs["pixel_values"]).feature_map
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_inheritance_names_what_it_copied_and_leaves_the_rest(efficientnet):
    student = make_model(CUT_EFFICIENTNET, XLM_ROBERTA | {"hidden_size": 48}, seed=9)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    copied = inherit_weights(student, efficientnet)
    assert "logit_scale" not in copied
    assert len([name for name in copied if name.startswith("vision_model")]) > 50
    after = student.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed <= set(copied)
    assert {"vision_model.timm_model.model.conv_stem.weight"} <= changed
    # token states of another width are not the teacher's
    assert not [name for name in copied if "word_embeddings" in name]


def test_inheritance_that_copies_nothing_is_refused(efficientnet):
    text = XLM_ROBERTA | {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 1}
    student = make_model(RESNET, text, vocabulary=500, projection_dim=20)
    with pytest.raises(ValueError, match=r"student.inherit: no weight of 'tiny-efficientnet'"):
        inherit_weights(student, efficientnet)


def test_the_teacher_fills_in_what_the_recipe_leaves_out(efficientnet):
    student, processor = build_student(student_config(), LANGUAGES, efficientnet)
    config = student.config
    assert (config.projection_dim, config.image_size, config.max_text_length) == (PROJECTION_DIM, 64, 32)
    assert (config.teacher, config.teacher_license) == ("tiny-efficientnet", "apache-2.0")
    assert list(config.languages) == LANGUAGES
    assert config.text_config.vocab_size == len(efficientnet.tokenizer)
    assert config.text_config.pad_token_id == efficientnet.tokenizer.pad_token_id
    assert student.logit_scale.item() == efficientnet.model.logit_scale.item()
    assert list(processor.image_processor.image_mean) == list(efficientnet.image_processor.image_mean)
    assert processor.image_processor.crop_size["height"] == 64


def test_the_recipe_wins_over_the_teacher(efficientnet):
    wanted = student_config(image_size=32, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    student, processor = build_student(wanted, LANGUAGES, efficientnet)
    assert student.config.image_size == 32 and list(processor.image_processor.image_mean) == [0.1, 0.2, 0.3]
    assert list(processor.image_processor.image_std) == [0.4, 0.5, 0.6]


def test_the_seed_makes_the_weights(efficientnet):
    def weights(seed: int) -> torch.Tensor:
        return build_student(student_config(), LANGUAGES, efficientnet, seed)[0].text_projection.weight

    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))


def test_projection_width_other_than_the_teachers_is_refused(efficientnet):
    with pytest.raises(
        ValueError, match=r"student.projection_dim is 24, the teacher 'tiny-efficientnet' embeds in 16"
    ):
        build_student(student_config(projection_dim=24), LANGUAGES, efficientnet)


@pytest.mark.parametrize("field", ["tokenizer", "image_size", "projection_dim", "image_mean", "image_std"])
def test_field_without_a_teacher_to_take_it_from_is_refused(field, teacher_folder):
    given = {
        "tokenizer": str(teacher_folder),
        "image_size": 64,
        "projection_dim": 8,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    build_student(student_config(**given), LANGUAGES)
    del given[field]
    with pytest.raises(ValueError, match=rf"student.{field} is not given and there is no teacher"):
        build_student(student_config(**given), LANGUAGES)


def test_inheritance_without_a_teacher_is_refused(teacher_folder):
    given = {"tokenizer": str(teacher_folder), "image_size": 64, "projection_dim": 8}
    given |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "inherit": "teacher"}
    with pytest.raises(ValueError, match=r"student.inherit is 'teacher', but no teacher"):
        build_student(student_config(**given), LANGUAGES)


def test_tokenizer_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"student.tokenizer: cannot load"):
        load_tokenizer(str(tmp_path))


def test_saved_student_is_loaded_with_its_processor(tmp_path, processor, inputs):
    model = make_model(MOBILENET)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, its_processor = load_student(tmp_path)
    assert isinstance(its_processor, DCCLIPProcessor)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**inputs).logits_per_image, model(**inputs).logits_per_image)


def test_student_of_another_family_or_nowhere_is_refused(altclip_folder, tmp_path):
    with pytest.raises(ValueError, match=r"student: .* is of the family 'altclip'"):
        load_student(altclip_folder)
    with pytest.raises(ValueError, match=r"neither a folder with a config.json nor on the Hub"):
        load_student(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="none is named"):
        load_student(None)


def test_tower_with_its_own_pooling_can_be_a_student(efficientnet):
    wanted = student_config(vision_config=WHOLE_MOBILENET, vision_pooling="tower", text_pooling="cls")
    student, _ = build_student(wanted, LANGUAGES, efficientnet)
    assert student.config.vision_pooled_width == 1280 and student.config.vision_width == 480
