"""The page for phones: its constants are those of the shipped model."""

import json
import re
from pathlib import Path

import pytest

from modeling_dcclip.runtime_dcclip import Runtime

CARDS = Path(__file__).parents[2] / "model_cards"
MODEL, MOBILE = CARDS / "dcclip-tiny-photo", CARDS / "mobile"
SOURCES = ("DcClip.kt", "DcClip.swift")


def expected() -> dict[str, list[float]]:
    """Constants of the model folder, by their names in the source files."""
    config, images, tokenizer = (
        json.loads((MODEL / name).read_text(encoding="utf-8"))
        for name in ("config.json", "preprocessor_config.json", "tokenizer.json")
    )
    tokens = {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}
    return {
        "EDGE": [images["crop_size"]["height"]],
        "MEAN": images["image_mean"],
        "STD": images["image_std"],
        "MAX_TEXT_LENGTH": [config["max_text_length"]],
        "BOS": [tokens["<s>"]],
        "PAD": [tokens["<pad>"]],
        "EOS": [tokens["</s>"]],
        "UNK": [tokens["<unk>"]],
        "DIMENSION": [config["projection_dim"]],
        "LOGIT_SCALE": [Runtime(MODEL).logit_scale],
    }


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


@pytest.mark.parametrize("name", SOURCES)
def test_constants_of_the_code_are_those_of_the_model(name):
    source = (MOBILE / name).read_text(encoding="utf-8")
    found = {
        constant: numbers(re.sub(r"\bInt64\b", "", value))
        for constant, value in re.findall(
            r"^(?:const val|val|let) ([A-Z_]+)(?:: [\w\[\]]+)? = (.+)$", source, re.M
        )
    }
    assert {
        constant: pytest.approx(values, rel=1e-6) for constant, values in expected().items()
    } == found
    assert "LOGIT_SCALE * " in source and "Not run: " in source
    for tensor in ("pixel_values", "image_embeds", "input_ids", "attention_mask", "text_embeds"):
        assert f'"{tensor}"' in source
