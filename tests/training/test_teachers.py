import pytest
import torch
from transformers import AltCLIPModel, BertConfig, BertModel

from modeling_dcclip import DCCLIPModel
from tests.tiny import PROJECTION_DIM
from training.teachers import Teacher, same_tokens, weights_fingerprint


@pytest.fixture(scope="module")
def altclip(altclip_folder) -> Teacher:
    return Teacher.from_pretrained(str(altclip_folder))


@pytest.fixture(scope="module")
def altclip_tokens(altclip, texts):
    return altclip.tokenizer(texts, padding=True, return_tensors="pt")


@torch.no_grad()
def test_altclip_picture_map_has_passed_the_final_norm(altclip, altclip_folder, inputs):
    model = AltCLIPModel.from_pretrained(altclip_folder).eval()
    hidden = model.vision_model(pixel_values=inputs["pixel_values"]).last_hidden_state  # (B, 17, D)
    norm = model.vision_model.post_layernorm
    targets = altclip.encode_pictures(inputs["pixel_values"])
    assert targets.feature_map.shape == (8, 24, 4, 4)
    for row in range(4):
        for column in range(4):
            token = hidden[:, 1 + 4 * row + column]
            centred = token - token.mean(1, keepdim=True)
            expected = centred / (token.var(1, unbiased=False, keepdim=True) + norm.eps).sqrt()
            expected = expected * norm.weight + norm.bias
            torch.testing.assert_close(targets.feature_map[:, :, row, column], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_altclip_text_map_is_projected_already(altclip, altclip_folder, altclip_tokens):
    model = AltCLIPModel.from_pretrained(altclip_folder).eval()
    text_model = model.text_model
    roberta = text_model.roberta(**altclip_tokens)[0]
    expected = text_model.transformation(text_model.pre_LN(roberta))
    targets = altclip.encode_texts(altclip_tokens["input_ids"], altclip_tokens["attention_mask"])
    torch.testing.assert_close(targets.feature_map, expected)
    torch.testing.assert_close(targets.embedding, expected[:, 0] @ model.text_projection.weight.T)


@torch.no_grad()
def test_altclip_embeddings_are_those_that_it_compares_itself(altclip, altclip_folder, altclip_tokens, inputs):
    model = AltCLIPModel.from_pretrained(altclip_folder).eval()
    output = model(**altclip_tokens, pixel_values=inputs["pixel_values"])
    image = altclip.encode_pictures(inputs["pixel_values"]).embedding
    text = altclip.encode_texts(altclip_tokens["input_ids"], altclip_tokens["attention_mask"]).embedding
    torch.testing.assert_close(torch.nn.functional.normalize(image, dim=1), output.image_embeds)
    torch.testing.assert_close(torch.nn.functional.normalize(text, dim=1), output.text_embeds)


@torch.no_grad()
def test_dcclip_targets_are_its_own_outputs(teacher, teacher_folder, inputs):
    model = DCCLIPModel.from_pretrained(teacher_folder).eval()
    tokens = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    image, text = model.get_image_features(inputs["pixel_values"]), model.get_text_features(**tokens)
    pictures, texts = teacher.encode_pictures(inputs["pixel_values"]), teacher.encode_texts(**tokens)
    assert torch.equal(pictures.feature_map, image.feature_map)
    assert torch.equal(pictures.embedding, image.pooler_output)
    assert torch.equal(texts.feature_map, text.last_hidden_state)
    assert torch.equal(texts.embedding, text.pooler_output)


@pytest.mark.parametrize("family", ["altclip", "dcclip"])
def test_widths_announced_are_those_delivered(family, altclip, teacher, inputs):
    chosen = {"altclip": altclip, "dcclip": teacher}[family]
    tokens = torch.tensor([[0, 5, 6, 2]])
    pictures, texts = chosen.encode_pictures(inputs["pixel_values"]), chosen.encode_texts(tokens, tokens.ge(0).long())
    assert pictures.feature_map.shape[1] == chosen.vision_width
    assert texts.feature_map.shape[2] == chosen.text_width
    assert pictures.embedding.shape[1] == texts.embedding.shape[1] == chosen.projection_dim == PROJECTION_DIM
    assert chosen.image_size == inputs["pixel_values"].shape[-1]


def test_a_teacher_is_frozen_and_stays_in_eval(teacher_folder, inputs):
    teacher = Teacher.from_pretrained(str(teacher_folder))
    assert not [name for name, p in teacher.model.named_parameters() if p.requires_grad]
    before = weights_fingerprint(teacher.model)
    teacher.model.train()  # whoever does this by mistake changes nothing
    first = teacher.encode_pictures(inputs["pixel_values"]).embedding
    assert not first.requires_grad
    assert torch.equal(first, teacher.encode_pictures(inputs["pixel_values"]).embedding)
    assert weights_fingerprint(teacher.model) == before


def test_unknown_family_is_refused_with_those_that_are_known(tmp_path, tokenizer):
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"family 'bert'; supported are altclip, dcclip"):
        Teacher.from_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match=r"family 'bert'; supported are altclip, dcclip"):
        Teacher(BertModel(config), tokenizer, None, "x")


def test_teacher_that_is_not_there_is_refused_by_name():
    with pytest.raises(ValueError, match=r"teacher: 'no/where'"):
        Teacher.from_pretrained("no/where")


def test_licence_of_the_weights_is_known(altclip):
    assert altclip.license == "creativeml-openrail-m"


def test_same_tokens_compares_whole_pipelines(tokenizer, other_tokenizer, teacher):
    assert same_tokens(tokenizer, tokenizer)
    assert same_tokens(tokenizer, teacher.tokenizer)  # saved and loaded
    assert not same_tokens(tokenizer, other_tokenizer)


def test_padding_or_cutting_once_does_not_change_what_a_tokenizer_is(tokenizer, teacher):
    teacher.tokenizer(["red apple", "frog"], padding=True, truncation=True, max_length=3)
    assert same_tokens(tokenizer, teacher.tokenizer)


def test_fingerprint_sees_every_weight(teacher_folder):
    model = DCCLIPModel.from_pretrained(teacher_folder)
    before = weights_fingerprint(model)
    assert weights_fingerprint(DCCLIPModel.from_pretrained(teacher_folder)) == before
    with torch.no_grad():
        model.visual_projection.weight[3, 5] += 1e-3
    assert weights_fingerprint(model) != before
