"""Behaviors that transformers tests on its own models, on both kinds of towers: timm with BERT, and CLIP's own."""

import copy
import json

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForZeroShotImageClassification,
    CLIPTextConfig,
    CLIPVisionConfig,
    pipeline,
)

from modeling_dcclip import (
    DCCLIPModel,
    DCCLIPTextModelWithProjection,
    DCCLIPVisionModelWithProjection,
)
from tests.tiny import (
    BERT,
    CUT_EFFICIENTNET,
    DROPOUT,
    IMAGE_SIZE,
    RESNET,
    SMALL,
    VIT,
    WHOLE_MOBILENET,
    make_config,
    make_model,
)

CLIP_VISION = CLIPVisionConfig(**SMALL, image_size=IMAGE_SIZE, patch_size=16).to_dict()
CLIP_TEXT = CLIPTextConfig(**SMALL, max_position_embeddings=40).to_dict()
TOWERS = {
    "timm and BERT": (WHOLE_MOBILENET, BERT | dict.fromkeys(DROPOUT, 0.0)),
    "CLIP": (CLIP_VISION, CLIP_TEXT),
}


@pytest.fixture(params=TOWERS)
def towers(request):
    return TOWERS[request.param]


@pytest.fixture
def model(towers):
    return make_model(*towers, vision_pooling="tower")  # which uses every parameter


@pytest.fixture
def tokens(inputs):
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def test_arguments_of_one_tower_and_of_trainers_do_not_reach_the_other(model, inputs):
    found = model(
        **inputs,
        token_type_ids=torch.zeros_like(inputs["input_ids"]),
        interpolate_pos_encoding=True,
        labels=torch.arange(8),
        num_items_in_batch=8,
    )
    torch.testing.assert_close(found.logits_per_image, model(**inputs).logits_per_image)


@torch.no_grad()
def test_token_types_reach_a_text_tower_that_has_them(inputs):
    model = make_model(text=BERT | {"type_vocab_size": 2})
    second = model(**inputs, token_type_ids=torch.ones_like(inputs["input_ids"]))
    assert not torch.allclose(second.text_embeds, model(**inputs).text_embeds)


@torch.no_grad()
def test_interpolated_positions_encode_larger_images(inputs):
    model = make_model(CLIP_VISION)
    large = torch.nn.functional.interpolate(inputs["pixel_values"], scale_factor=1.5)
    output = model.get_image_features(large, interpolate_pos_encoding=True)
    assert output.feature_map.shape == (8, 32, 6, 6)


@torch.no_grad()
def test_attentions_and_hidden_states_come_from_the_towers_that_have_them(towers, model, inputs):
    model.set_attn_implementation("eager")
    output = model(**inputs, output_attentions=True, output_hidden_states=True)
    length = inputs["input_ids"].shape[1]
    text = output.text_model_output
    assert [weights.shape for weights in text.attentions] == [(8, 2, length, length)] * 2
    assert [states.shape for states in text.hidden_states] == [(8, length, 32)] * 3
    vision = output.vision_model_output
    assert vision.hidden_states
    assert (vision.attentions is None) == (towers[0] is WHOLE_MOBILENET)


@torch.no_grad()
def test_hidden_states_that_a_cut_tower_cannot_give_are_left_out(inputs):
    model = make_model({**CUT_EFFICIENTNET, "model_args": {"features_only": True}})
    output = model(**inputs, output_hidden_states=True)
    assert output.vision_model_output.hidden_states is None
    assert output.text_model_output.hidden_states


@torch.no_grad()
def test_single_towers_return_embeddings_first_as_in_clip(model, inputs, tokens, tmp_path):
    model.save_pretrained(tmp_path)
    image = DCCLIPVisionModelWithProjection.from_pretrained(tmp_path).eval()
    text = DCCLIPTextModelWithProjection.from_pretrained(tmp_path).eval()
    # loaded as the towers are: on some processors, sums depend on the alignment of the weights in memory
    expected = DCCLIPModel.from_pretrained(tmp_path).eval()(**inputs)
    found = image(inputs["pixel_values"], return_dict=False)[0]
    assert torch.equal(found, expected.vision_model_output.pooler_output)
    found = text(**tokens, return_dict=False)[0]
    assert torch.equal(found, expected.text_model_output.pooler_output)


def test_a_saved_tower_loads_as_a_tower_and_not_as_a_whole_model(model, tmp_path):
    model.save_pretrained(tmp_path / "whole")
    image = DCCLIPVisionModelWithProjection.from_pretrained(tmp_path / "whole")
    image.save_pretrained(tmp_path / "image")
    config = json.loads((tmp_path / "image/config.json").read_text(encoding="utf-8"))
    assert config["auto_map"] == {
        "AutoConfig": "configuration_dcclip.DCCLIPConfig",
        "AutoModel": "modeling_dcclip.DCCLIPVisionModelWithProjection",
    }
    whole = (AutoModel, AutoModelForZeroShotImageClassification)
    for load in (*whole, DCCLIPTextModelWithProjection):
        with pytest.raises(ValueError, match=r"lacks \d+ weights.*DCCLIPVisionModelWithProjection"):
            load.from_pretrained(tmp_path / "image")


def test_an_attention_implementation_is_claimed_only_if_every_tower_has_it(towers, model):
    is_timm = towers[0] is WHOLE_MOBILENET
    assert model._supports_sdpa
    assert model._supports_flex_attn != is_timm
    if is_timm:
        with pytest.raises(ValueError, match="flex_attention"):
            model.set_attn_implementation("flex_attention")
        assert model.config.text_config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("vision", "alone"), [(VIT, True), (RESNET, False)])
def test_gradient_checkpointing_is_claimed_only_if_a_tower_has_it(vision, alone):
    tower = DCCLIPVisionModelWithProjection(make_config(vision))
    assert tower.supports_gradient_checkpointing is alone
    assert make_model(vision).supports_gradient_checkpointing  # the text tower has it


@torch.no_grad()
def test_resized_token_embeddings_encode_old_texts_equally(model, tokens):
    expected = model.get_text_features(**tokens).pooler_output
    model.resize_token_embeddings(610)
    assert model.config.text_config.vocab_size == 610
    assert torch.equal(model.get_text_features(**tokens).pooler_output, expected)


@pytest.mark.parametrize("value", [float("nan"), -100.0])
def test_a_logit_scale_that_no_model_has_is_refused(value, tmp_path):
    model = make_model()
    model.logit_scale.data.fill_(value)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="logit_scale: the checkpoint has"):
        DCCLIPModel.from_pretrained(tmp_path)


def test_frozen_batch_norm_keeps_its_statistics_in_train_mode(inputs):
    model = make_model(WHOLE_MOBILENET)
    model.vision_model.requires_grad_(False)
    before = copy.deepcopy(model)
    expected = model.get_image_features(inputs["pixel_values"]).pooler_output
    model.train()
    assert torch.equal(model.get_image_features(inputs["pixel_values"]).pooler_output, expected)
    assert all(map(torch.equal, model.buffers(), before.buffers()))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_zero_shot_pipeline_ranks_labels(batch_size, model, processor, images, texts):
    classify = pipeline(
        "zero-shot-image-classification",
        model=model,
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
        batch_size=batch_size,
    )
    answers = classify(images[:3], candidate_labels=texts, hypothesis_template="{}")
    with torch.no_grad():
        batch = processor(images=images[:3], text=texts, return_tensors="pt")
        scores = model(**batch).logits_per_image.softmax(1).tolist()
    for answer, row in zip(answers, scores, strict=True):
        assert [each["score"] for each in answer] == pytest.approx(
            sorted(row, reverse=True), abs=1e-5
        )
        assert answer[0]["label"] == texts[row.index(max(row))]
