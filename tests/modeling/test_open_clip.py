"""Models converted for open_clip give the embeddings of transformers, or are refused."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from modeling_dcclip.integrations.open_clip import convert, preprocess_config
from tests.tiny import (
    BERT,
    CUT_EFFICIENTNET,
    MAX_TEXT_LENGTH,
    MOBILENET,
    VIT,
    WHOLE_EFFICIENTNET,
    WHOLE_MOBILENET,
    make_model,
)

pytestmark = pytest.mark.slow

LONG = "a frog that sits on a leaf " * 20
TOWERS = {
    "whole": (WHOLE_EFFICIENTNET, {}),
    # the projection follows a head that the model does not have
    "headless": (MOBILENET, {"text": BERT, "text_pooling": "cls"}),
    # its last feature map has negative values, and a ReLU6 follows in the timm model
    "linear end": (
        WHOLE_EFFICIENTNET | {"model_args": {"features_only": True, "out_indices": [4]}},
        {},
    ),
    # the projection follows the pooling, and the head of the timm model, which is there, is not used
    "unused head": (WHOLE_MOBILENET, {}),
    "short embeddings": (WHOLE_MOBILENET, {"truncate_dim": 8}),
}


def save(folder: Path, processor: DCCLIPProcessor, *arguments, **fields) -> DCCLIPModel:
    model = make_model(*arguments, **fields)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=TOWERS)
def converted(request, processor, tmp_path_factory) -> tuple[DCCLIPModel, str]:
    """A model, and the name of its conversion in open_clip."""
    vision, fields = TOWERS[request.param]
    folder = tmp_path_factory.mktemp("converted")
    return save(folder, processor, vision, **fields), f"local-dir:{convert(folder)}"


@torch.no_grad()
def test_embeddings_equal_those_of_transformers(converted, processor, images, texts):
    model, name = converted
    network, _, transform = open_clip.create_model_and_transforms(name)
    network.eval()
    pixels = torch.stack([transform(image) for image in images])
    texts = [*texts, LONG]
    tokens = processor(text=texts, return_tensors="pt", truncation=True, max_length=MAX_TEXT_LENGTH)
    for found, expected in (
        (network.encode_image(pixels, normalize=True), model.get_image_features(pixels)),
        (
            network.encode_text(open_clip.get_tokenizer(name)(texts), normalize=True),
            model.get_text_features(**tokens),
        ),
    ):
        expected = F.normalize(expected.pooler_output, dim=-1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(network.logit_scale, model.logit_scale)


@pytest.mark.parametrize(
    ("vision", "fields", "message"),
    [
        (CUT_EFFICIENTNET, {}, "vision_config: 'tf_efficientnet_lite0'"),
        (VIT, {}, "timm models with mean or cls pooling .* Got 'vit'"),
        (
            WHOLE_EFFICIENTNET,
            {"text": BERT | {"model_type": "electra"}},
            "as text_config. Got .*'electra'",
        ),
    ],
)
def test_towers_without_a_counterpart_are_refused(processor, tmp_path, vision, fields, message):
    save(tmp_path, processor, vision, **fields)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path)
    assert not (tmp_path / "open_clip").exists()


def test_preprocessing_without_a_counterpart_is_refused():
    common = {"resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    square = {"height": 64, "width": 64}
    assert preprocess_config(common | {"size": square}, 64)["resize_mode"] == "squash"
    with pytest.raises(ValueError, match="no counterpart in open_clip"):
        preprocess_config(
            common | {"size": {"shortest_edge": 72}, "do_center_crop": True, "crop_size": square},
            64,
        )
    with pytest.raises(ValueError, match="resample 1 has no counterpart"):
        preprocess_config(common | {"size": square, "resample": 1}, 64)


def test_a_repo_of_its_own_names_its_place_on_the_hub(processor, tmp_path):
    save(tmp_path, processor, WHOLE_EFFICIENTNET)
    folder = convert(tmp_path, repo_id="someone/dcclip-tiny")
    assert folder == tmp_path / "open_clip_hub"
    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    text = config["text_cfg"]
    assert text["hf_model_name"] == text["hf_tokenizer_name"] == "someone/dcclip-tiny"
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert not {"auto_map", "processor_class"} & tokenizer.keys()
    assert convert(tmp_path, tmp_path / "a/b") == tmp_path / "a/b"
