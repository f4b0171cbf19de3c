import pytest
import torch
from transformers import AltCLIPModel

from modeling_dcclip import DCCLIPModel
from tests.tiny import (
    BERT,
    CUT_EFFICIENTNET,
    PROJECTION_DIM,
    VIT,
    WHOLE_EFFICIENTNET,
    XLM_ROBERTA,
    make_model,
)
from tests.tiny_teachers import VISION
from training.engine.rotation import rotate
from training.students import SourceTower, inherit_weights, open_source_tower
from training.teachers import DualEncoder

# four times as deep, twice as wide, with more heads of the same width
LARGE = {
    "hidden_size": 64,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "intermediate_size": 160,
}
HEADS = [*range(16), *range(48, 64)]  # the first and the last of four heads, 16 channels each
CLIP_VISION = VISION | {"model_type": "clip_vision_model"}


def source_of(model: DCCLIPModel, tower: str) -> SourceTower:
    """One tower of a model in memory."""
    module = getattr(model, f"{tower}_model")
    projection = model.visual_projection if tower == "vision" else model.text_projection
    return SourceTower("large", tower, module.config, module.state_dict(), projection.weight)


def randomized(model: DCCLIPModel) -> DCCLIPModel:
    """Randomize all parameters, so that no two rows are equal."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    return model


def spaced(total: int, count: int) -> list[int]:
    """Reference: rounded to nearest, from the first to the last."""
    return [int(index * (total - 1) / (count - 1) + 0.5) for index in range(count)]


def test_text_tower_is_cut_in_depth_and_width_by_one_set_of_channels():
    large = randomized(make_model(text=XLM_ROBERTA | LARGE, seed=1))
    student = make_model(text=XLM_ROBERTA | {"num_hidden_layers": 3}, seed=2)
    assert inherit_weights(student, source_of(large, "text")) == []
    source, weights = large.state_dict(), student.state_dict()
    width, feed_forward = spaced(64, 32), spaced(160, 64)
    chosen = {
        "attention.self.query": (HEADS, width),
        "attention.self.key": (HEADS, width),
        "attention.self.value": (HEADS, width),
        "attention.output.dense": (width, HEADS),
        "intermediate.dense": (feed_forward, width),
        "output.dense": (width, feed_forward),
    }
    for layer, original in enumerate([0, 3, 6]):
        for name, (rows, columns) in chosen.items():
            old, new = (f"text_model.encoder.layer.{index}.{name}" for index in (original, layer))
            assert torch.equal(weights[f"{new}.weight"], source[f"{old}.weight"][rows][:, columns])
            assert torch.equal(weights[f"{new}.bias"], source[f"{old}.bias"][rows])
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm"):
        name = f"text_model.embeddings.{name}.weight"
        assert torch.equal(weights[name], source[name][..., width])
    projection = source["text_projection.weight"][:, width]
    assert torch.equal(weights["text_projection.weight"], projection)


@torch.no_grad()
@pytest.mark.parametrize("text", [XLM_ROBERTA, BERT | {"max_position_embeddings": 38}])
def test_all_layers_of_altclips_text_tower_give_the_same_states(altclip_folder, inputs, text):
    model = AltCLIPModel.from_pretrained(altclip_folder)
    config = model.config.text_config
    vocabulary, epsilon = config.vocab_size, {"layer_norm_eps": config.layer_norm_eps}
    student = make_model(text=text | epsilon, vocabulary=vocabulary, seed=5)
    random = inherit_weights(student, source_of(model, "text"))
    ids, mask = inputs["input_ids"] % vocabulary, inputs["attention_mask"]
    ids = ids.masked_fill(mask == 0, 1)
    expected = model.text_model.roberta(input_ids=ids, attention_mask=mask).last_hidden_state
    found = student.get_text_features(ids, mask).last_hidden_state
    # padding is left out: the two families number its positions differently
    assert torch.equal(found[mask == 1], expected[mask == 1])
    # the input of the teacher's projection is not its residual stream
    assert random == ["text_projection.weight"]


@torch.no_grad()
def test_all_layers_of_altclips_vision_tower_give_the_same_embeddings(altclip_folder, inputs):
    model = AltCLIPModel.from_pretrained(altclip_folder)
    teacher = DualEncoder.from_pretrained(str(altclip_folder), towers=())
    student = make_model(vision=CLIP_VISION, vision_pooling="tower", seed=5)
    assert inherit_weights(student, open_source_tower("teacher", "vision", teacher)) == []
    found = student.get_image_features(inputs["pixel_values"])
    expected = model.get_image_features(inputs["pixel_values"])
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(found.pooler_output, expected.pooler_output)
    assert teacher.towers == ()


@pytest.mark.parametrize("vision", [VIT, CLIP_VISION])
def test_vision_transformers_are_cut_in_depth_and_width(vision):
    large = randomized(make_model(vision=vision | LARGE, seed=1))
    small = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    student = make_model(vision=vision | LARGE | small, seed=3)
    assert inherit_weights(student, source_of(large, "vision")) == []
    source, weights = large.state_dict(), student.state_dict()
    (query,) = (name for name in weights if ".1." in name and name.endswith("q_proj.weight"))
    expected = source[query.replace(".1.", ".6.")][HEADS][:, spaced(64, 32)]
    assert torch.equal(weights[query], expected)


@torch.no_grad()
def test_a_cut_backbone_inherits_the_sources_stages(inputs):
    whole = make_model(WHOLE_EFFICIENTNET, seed=3)
    student = make_model(CUT_EFFICIENTNET, seed=9)
    random = inherit_weights(student, source_of(whole, "vision"))
    backbone = whole.vision_model.timm_model
    # the first five of seven stages, run by hand
    expected = backbone.bn1(backbone.conv_stem(inputs["pixel_values"]))
    for stage in backbone.blocks[:5]:
        expected = stage(expected)
    found = student.eval().get_image_features(inputs["pixel_values"]).feature_map
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert random == ["visual_projection.weight"]  # its input was a wider stage


def test_token_embeddings_are_looked_up_and_others_stay_random():
    large = randomized(make_model(seed=1))
    student = make_model(seed=2)
    found = student.text_model.embeddings.word_embeddings.weight.detach()
    before, table = found.clone(), large.text_model.embeddings.word_embeddings.weight
    inherit_weights(student, source_of(large, "text"), torch.tensor([30, -1, 20]))
    assert torch.equal(found[[0, 2]], table[[30, 20]])
    assert torch.equal(found[1], before[1]) and torch.equal(found[3:], before[3:])


@torch.no_grad()
def test_a_rotated_student_is_inherited_in_the_space_of_its_teacher(processor, tmp_path):
    student = make_model(CUT_EFFICIENTNET, seed=1)
    before = student.visual_projection.weight.clone()
    rotate(student, torch.linalg.qr(torch.randn(PROJECTION_DIM, PROJECTION_DIM))[0])
    student.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert not torch.allclose(student.visual_projection.weight, before, atol=0.05)
    found = open_source_tower(str(tmp_path), "vision").projection
    torch.testing.assert_close(found, before, atol=1e-5, rtol=0)
    # the student as a teacher lives in its own space
    own = open_source_tower(
        "teacher", "vision", DualEncoder.from_pretrained(str(tmp_path), ("vision",))
    ).projection
    assert torch.equal(own, student.visual_projection.weight)


@torch.no_grad()
def test_no_narrow_table_is_nearer_to_what_the_first_layer_reads():
    large = randomized(make_model(text=BERT, seed=1))
    student = make_model(text=BERT | {"model_type": "electra", "embedding_size": 8}, seed=2)
    embeddings = large.text_model.embeddings
    table = embeddings.word_embeddings.weight + embeddings.token_type_embeddings.weight[0]
    expected = embeddings.LayerNorm(table)
    words = student.text_model.embeddings.word_embeddings.weight
    before = words.clone()
    # token 1 is not in the source
    tokens = torch.arange(len(words))
    tokens[1] = -1
    random = inherit_weights(student, source_of(large, "text"), tokens)
    assert not any("word_embeddings" in name or "project.weight" in name for name in random)
    assert torch.equal(words[1], before[1])
    words[1] = 0
    lost = student.text_model.embeddings_project(words) - expected
    left = torch.linalg.svdvals(expected - expected.mean(0))[8:]
    known = tokens >= 0
    assert lost[known].norm() <= left.norm() * (1 + 1e-4)
    assert words[known].std() == pytest.approx(1, rel=0.05)


def test_a_student_larger_than_its_source_is_refused():
    student = make_model(text=XLM_ROBERTA | {"hidden_size": 64})
    with pytest.raises(ValueError, match=r"has 64 layers, channels or heads, where .* has 32"):
        inherit_weights(student, source_of(make_model(), "text"))
