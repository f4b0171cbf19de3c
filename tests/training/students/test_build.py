from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import (
    BERT,
    MOBILENET,
    PROJECTION_DIM,
    WHOLE_EFFICIENTNET,
    XLM_ROBERTA,
    make_model,
    student_config,
)
from training.config import StudentConfig
from training.students import build_student, load_size, load_student
from training.teachers import DualEncoder

LANGUAGES = ["en", "zh"]
LEVIT = {
    "model_type": "timm_wrapper",
    "architecture": "levit_128s",
}  # takes images of 224 pixels only


@pytest.fixture(scope="module")
def efficientnet(processor) -> DualEncoder:
    model = make_model(WHOLE_EFFICIENTNET, seed=3, teacher_license="apache-2.0")
    torch.nn.init.constant_(model.logit_scale, 3.25)  # not the value that a student starts with
    return DualEncoder(model.eval(), processor, "tiny-efficientnet")


def plain_fields(folder) -> dict:
    """Fields that a student without a teacher needs."""
    fields = {"tokenizer": str(folder), "image_size": 64, "projection_dim": 8}
    return fields | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def test_towers_of_pretrained_folders(tmp_path, tokenizer, teacher_folder):
    model = make_model(WHOLE_EFFICIENTNET, vocabulary=len(tokenizer), seed=3)
    backbone, text = model.vision_model, model.text_model
    backbone.save_pretrained(tmp_path / "vision")
    text.save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    (tmp_path / "text/README.md").write_text("---\nlicense: mit\n---\n")
    config = StudentConfig(
        **plain_fields(teacher_folder),
        vision_init=str(tmp_path / "vision"),
        text_init=str(tmp_path / "text"),
        text_config={"num_hidden_layers": 1},
        max_text_length=32,
    )
    student, _ = build_student(config, LANGUAGES)
    for name, tensor in student.vision_model.state_dict().items():
        assert torch.equal(tensor, backbone.state_dict()[name]), name
    table = text.embeddings.word_embeddings.weight
    assert torch.equal(student.text_model.embeddings.word_embeddings.weight, table)
    assert len(student.text_model.encoder.layer) == 1
    assert (student.config.teacher, student.config.teacher_license) == (None, "unknown and mit")
    # class names belong to the checkpoint, not to the tower
    assert not getattr(student.config.vision_config, "label_names", None)


def test_a_teacher_in_half_precision_gives_its_exact_weights(teacher_folder):
    exact, half = (
        DualEncoder.from_pretrained(str(teacher_folder), towers=(), dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    config = StudentConfig(vision_init="teacher", text_init="teacher", max_text_length=32)
    expected = build_student(config, LANGUAGES, exact)[0].state_dict()
    for name, found in build_student(config, LANGUAGES, half)[0].state_dict().items():
        assert torch.equal(found, expected[name]), name


def test_sizes_are_student_configs_and_can_be_overridden(efficientnet):
    config = load_size("tiny", projection_dim=None, max_text_length=32)
    assert isinstance(config, StudentConfig)
    assert (config.projection_dim, config.max_text_length, config.image_size) == (None, 32, 224)
    with pytest.raises(ValueError, match="'huge'"):
        load_size("huge")


def test_a_size_leaves_no_weight_unused(teacher_folder, inputs):
    """A weight without gradient would be useless, and would stop distributed training."""
    text = load_size("tiny").text_config | {"num_hidden_layers": 1, "vocab_size": 600}
    config = load_size("tiny", text_config=text, image_size=64, tokenizer=str(teacher_folder))
    student, _ = build_student(replace(config, vision_init="random", text_init="random"), LANGUAGES)
    student(**inputs, return_loss=True).loss.backward()
    assert [name for name, weight in student.named_parameters() if weight.grad is None] == []


def test_teacher_provides_missing_fields(efficientnet):
    student, processor = build_student(student_config(), LANGUAGES, efficientnet)
    built = student.config
    assert (built.projection_dim, built.image_size) == (PROJECTION_DIM, 64)
    assert (built.teacher, built.teacher_license) == ("tiny-efficientnet", "apache-2.0")
    assert list(built.languages) == LANGUAGES
    assert built.text_config.vocab_size == len(efficientnet.tokenizer)
    assert student.logit_scale.item() == 3.25
    assert list(processor.image_processor.image_mean) == list(
        efficientnet.image_processor.image_mean
    )


@pytest.mark.parametrize(
    ("field", "tower", "message"),
    [
        (
            "text_config",
            XLM_ROBERTA | {"vocab_size": 10},
            r"student.tokenizer: .* has 600 tokens, the text tower embeds 10",
        ),
        ("text_config", BERT | {"num_layers": 1}, r"text_config.num_layers: 'bert'"),
        ("vision_config", None, r"vision_config has no 'model_type'.* in student.vision_init"),
        (
            "vision_config",
            LEVIT,
            r"vision_config: 'timm_wrapper' cannot be built .* for images of 64 pixels",
        ),
    ],
)
def test_a_tower_that_cannot_be_built_as_described_is_refused(efficientnet, field, tower, message):
    with pytest.raises(ValueError, match=message):
        build_student(student_config(**{field: tower}), LANGUAGES, efficientnet)


@pytest.mark.parametrize("field", ["tokenizer", "image_mean"])
def test_missing_field_without_a_teacher_raises(field, teacher_folder):
    given = plain_fields(teacher_folder)
    build_student(student_config(**given), LANGUAGES)
    del given[field]
    with pytest.raises(ValueError, match=rf"student.{field}: "):
        build_student(student_config(**given), LANGUAGES)


@torch.no_grad()
def test_a_student_at_a_smaller_input_starts_with_the_weights_of_its_teacher(processor):
    """As a teacher at 320 pixels and a student at 256: the same network, whose map has fewer cells."""
    teacher = DualEncoder(
        make_model(WHOLE_EFFICIENTNET, image_size=128, seed=3), processor, "large"
    )
    config = student_config(vision_config=None, vision_init="teacher", image_size=96)
    student, own = build_student(config, LANGUAGES, teacher)
    source = teacher.state_dict()
    for name, tensor in student.state_dict().items():
        if name.startswith(("vision_model.", "visual_projection.")):
            assert torch.equal(tensor, source[name]), name
    assert teacher.image_size == 128 and own.image_processor.crop_size["height"] == 96
    assert teacher.config.vision_grid == [4, 4] and student.config.vision_grid == [3, 3]


@pytest.fixture
def saved(tmp_path, processor):
    """A saved student."""
    make_model(MOBILENET).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_projection.weight": None}, "lacks 1 .*text_projection.weight"),
        ({"logit_scale": torch.tensor(torch.nan)}, "logit_scale: the checkpoint has nan"),
        ({"text_projection.weight": torch.full((16, 32), torch.nan)}, "not finite"),
        ({"more": torch.ones(1)}, "'more' .*has no place in the model"),
    ],
)
def test_a_student_with_damaged_weights_is_refused(saved, changes, message):
    weights = load_file(saved / "model.safetensors") | changes
    weights = {name: each for name, each in weights.items() if each is not None}
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"^new.model: .*{message}"):
        load_student(saved, field="new.model")


def test_a_student_with_a_damaged_file_is_refused(saved):
    for file, content in {"tokenizer.json": "{}", "config.json": '{"a":' * 5000}.items():
        (saved / file).write_text(content)
        message = "damaged" if file == "tokenizer.json" else file
        with pytest.raises(ValueError, match=f"^student: .*{message}"):
            load_student(saved)
