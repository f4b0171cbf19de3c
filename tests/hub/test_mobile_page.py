"""The page for phones: its constants are those of the shipped model, and its steps give the ids of the tokenizer."""

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from modeling_dcclip.runtime_dcclip import Runtime

CARDS = Path(__file__).parents[2] / "model_cards"
MODEL, MOBILE = CARDS / "dcclip-tiny-photo", CARDS / "mobile"
PAGE = (MOBILE / "README.md").read_text(encoding="utf-8")
SOURCES = ("DcClip.kt", "DcClip.swift")


def read_json(name: str) -> dict:
    return json.loads((MODEL / name).read_text(encoding="utf-8"))


def expected() -> dict[str, list[float]]:
    """Constants of the model folder, by their names in the source files."""
    config, images = read_json("config.json"), read_json("preprocessor_config.json")
    tokens = {entry["content"]: entry["id"] for entry in read_json("tokenizer.json")["added_tokens"]}
    session = onnxruntime.InferenceSession(str(MODEL / "onnx" / "text_model_quantized.onnx"))
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
        "LOGIT_SCALE": [float(session.get_modelmeta().custom_metadata_map["logit_scale"])],
    }


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


@pytest.mark.parametrize("name", SOURCES)
def test_constants_of_the_code_are_those_of_the_model(name):
    source = (MOBILE / name).read_text(encoding="utf-8")
    found = {
        constant: numbers(re.sub(r"\bInt64\b", "", value))
        for constant, value in re.findall(r"^(?:const val|val|let) ([A-Z_]+)(?:: [\w\[\]]+)? = (.+)$", source, re.M)
    }
    assert {constant: pytest.approx(values, rel=1e-6) for constant, values in expected().items()} == found
    assert "LOGIT_SCALE * " in source and "Not run: " in source
    for tensor in ("pixel_values", "image_embeds", "input_ids", "attention_mask", "text_embeds"):
        assert f'"{tensor}"' in source


def test_constants_of_the_page_are_those_of_the_model():
    rows = dict(re.findall(r"^\| ([^|]+) \| ([\d., ]+) \|$", PAGE, re.M))
    model = expected()
    assert {name: numbers(value) for name, value in rows.items()} == {
        "image size": model["EDGE"],
        "mean of each channel": model["MEAN"],
        "standard deviation of each channel": model["STD"],
        "longest text, in tokens": model["MAX_TEXT_LENGTH"],
        "ids of start, padding, end, unknown": model["BOS"] + model["PAD"] + model["EOS"] + model["UNK"],
        "dimensions of an embedding": model["DIMENSION"],
        "logit scale": pytest.approx(model["LOGIT_SCALE"], rel=1e-6),
    }
    assert f"Keep {model['MAX_TEXT_LENGTH'][0] - 2} ids" in PAGE


def test_inputs_and_outputs_of_the_page_are_those_of_the_files():
    for tower, kind in (("vision", "float32"), ("text", "int64")):
        session = onnxruntime.InferenceSession(str(MODEL / "onnx" / f"{tower}_model_quantized.onnx"))
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| {tower.replace('vision', 'image')} |"))
        for tensor in (*session.get_inputs(), *session.get_outputs()):
            assert f"`{tensor.name}`" in row
        assert kind in row and str(session.get_outputs()[0].shape[1]) in row


def test_images_are_prepared_by_the_steps_of_the_page():
    images = read_json("preprocessor_config.json")
    steps = [name for name, value in images.items() if name.startswith("do_") and value]
    assert set(steps) == {"do_convert_rgb", "do_normalize", "do_rescale", "do_resize"}
    edge = read_json("config.json")["image_size"]
    assert images["size"] == {"height": edge, "width": edge} and images["resample"] == 3  # bicubic
    assert images["rescale_factor"] == pytest.approx(1 / 255)


def test_the_steps_of_the_page_give_the_scores_of_the_runtime():
    runtime, labels = Runtime(MODEL), ["猫", "狗", "a cup of coffee"]
    image = runtime.encode_images([MODEL / "example.jpg"])[0]
    logits = expected()["LOGIT_SCALE"][0] * (runtime.encode_texts(labels) @ image)
    scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    found = dict(runtime.zero_shot(MODEL / "example.jpg", labels))
    assert [found[label] for label in labels] == pytest.approx(scores.tolist(), abs=1e-5)
