"""The torch-free runtime against the PyTorch model."""

import json
import os
import shutil

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from modeling_dcclip import DCCLIPModel
from modeling_dcclip.runtime_dcclip import Runtime

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runtime(exported):
    return Runtime(exported, threads=1)


@pytest.fixture
def full(exported, tmp_path):
    """The runtime on a folder with the fp32 files of both towers alone."""
    folder = tmp_path / "full"
    (folder / "onnx").mkdir(parents=True)
    names = [path.name for path in exported.iterdir() if path.name not in ("onnx", "results.json")]
    for name in (*names, "onnx/vision_model.onnx", "onnx/text_model.onnx"):
        (folder / name).symlink_to(exported / name)
    return Runtime(folder, threads=1)


@pytest.fixture
def folder(color_model, tmp_path):
    """A copy of the model that knows colors, which tests may change."""
    return shutil.copytree(color_model, tmp_path / "model")


@pytest.fixture
def expected(exported, processor, images, texts):
    """What the PyTorch model returns."""
    model = DCCLIPModel.from_pretrained(exported).eval()
    with torch.no_grad():
        return model(**processor(images=images, text=texts, return_tensors="pt"))


def test_embeddings_and_scores_equal_the_pytorch_model(full, expected, images, texts):
    found = full.encode_images(images)
    assert (found * expected.image_embeds.numpy()).sum(1).min() > 0.999
    np.testing.assert_allclose(full.encode_texts(texts), expected.text_embeds.numpy(), atol=1e-4)
    found = full.zero_shot(images[0], texts)
    scores = expected.logits_per_image[0].softmax(-1).tolist()
    assert dict(found) == pytest.approx(dict(zip(texts, scores, strict=True)), abs=0.01)
    assert found == sorted(found, key=lambda pair: -pair[1])


def test_order_and_batch_do_not_matter(full, texts):
    alone = np.concatenate([full.encode_texts([text]) for text in texts])
    many = full.encode_texts(texts * 9)  # more than one batch
    np.testing.assert_allclose(many, np.tile(alone, (9, 1)), atol=1e-5)


def test_truncated_embeddings_are_normalized_again(color_model, images):
    short = Runtime(color_model, truncate_dim=8)
    expected = Runtime(color_model).encode_images(images)[:, :8]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(short.encode_images(images), expected, atol=1e-6)
    assert short.encode_texts([]).shape == (0, 8)


def test_a_text_of_exactly_the_maximal_length_is_whole_and_a_longer_one_cut(full):
    text = "红苹果" * 30
    tokenizer = Tokenizer.from_file(str(full.folder / "tokenizer.json"))
    expected = tokenizer.encode(text).ids
    full.max_text_length = len(expected)
    for truncate in (False, True):
        assert full._tokenize(text, truncate) == expected
    full.max_text_length -= 1
    with pytest.raises(ValueError, match=r"accepts at most.*truncate=True"):
        full._tokenize(text, truncate=False)
    tokenizer.enable_truncation(full.max_text_length)
    assert full._tokenize(text, truncate=True) == tokenizer.encode(text).ids


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("config.json", "projection_dim", 10**6),
        ("config.json", "max_text_length", "77"),
        ("config.json", "truncate_dim", 17),
        ("config.json", "fit", [1, 2, 3, 4, 5, float("nan")]),
        ("preprocessor_config.json", "size", {"height": 10**6, "width": 8}),
        ("preprocessor_config.json", "image_std", [0.5, 0.5, 0]),
        ("preprocessor_config.json", "do_pad", True),
        ("preprocessor_config.json", "do_resize", "no"),
        ("preprocessor_config.json", "do_rescale", [0]),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_field(folder, file, field, value):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | {field: value}))
    with pytest.raises(ValueError, match=f"{field}|height"):
        Runtime(folder)


@pytest.mark.parametrize("value", ["nan", "1e9", "none"])
def test_a_logit_scale_that_no_model_has_is_refused(folder, value):
    model = onnx.load(folder / "onnx/text_model.onnx")
    model.metadata_props[0].value = value
    onnx.save(model, folder / "onnx/text_model.onnx")
    with pytest.raises(ValueError, match="logit_scale: "):
        Runtime(folder).logit_scale  # noqa: B018


@pytest.mark.parametrize(
    "meta",
    [
        None,
        [],
        {"export": []},
        {"export": {"best": None}},
        {"export": {"best": ["onnx/text_model.onnx"]}},
        {"export": {"best": {"text": 5}}},
        {"export": {"best": {"text": "../a.onnx"}}},
        {"export": {"best": {"text": "/a.onnx"}}},
    ],
)
def test_a_damaged_name_of_the_best_file_is_refused(folder, meta):
    content = {"meta": meta}
    (folder / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"results\.json"):
        Runtime(folder).file("text")


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}
PART = {"Sequence": {"id": "A", "type_id": 0}}
TEMPLATE = {"single": [PART] * 5000, "pair": [PART], "special_tokens": {}}
REPLACED = {"normalizer": {"type": "Sequence", "normalizers": [REPLACE] * 4}}
REPEATED = {"post_processor": {"type": "TemplateProcessing"} | TEMPLATE}
DAMAGED = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}


@pytest.mark.parametrize(
    ("file", "fields", "cause"),
    [
        ("config.json", {"projection_dim": 9}, "of 16 dimensions, and its config states 9"),
        (
            "tokenizer.json",
            {"model": {"type": "BPE", "vocab": {}, "merges": []}},
            "'red' has no token",
        ),
        ("tokenizer.json", REPLACED, "100000000 times"),
        ("tokenizer.json", REPEATED, "5000 times"),
        ("tokenizer.json", DAMAGED, "precompiled"),
    ],
)
def test_files_that_do_not_fit_multiply_characters_or_panic_are_refused(
    folder, file, fields, cause
):
    content = json.loads((folder / file).read_text())
    if file == "tokenizer.json":
        content["post_processor"] = None
    (folder / file).write_text(json.dumps(content | fields))
    with pytest.raises(ValueError, match=cause):
        Runtime(folder).encode_texts(["red"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
@pytest.mark.parametrize("name", ["config.json", "onnx/text_model.onnx"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_read(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=r"has no (file|onnx)"):
        Runtime(folder).encode_texts(["red"])


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("encode_texts", [["cat", None]], "^texts: None is not a string"),
        ("encode_texts", ["fox"], "pass a list of texts"),
        ("encode_images", ["a.png"], "images: got a single one"),
        ("encode_images", [[np.zeros(3)]], "image: ndarray does not decode"),
        # not the labels d, o and g
        ("zero_shot", [Image.new("RGB", (8, 8)), "dog"], "^labels: got a single one or none"),
        ("zero_shot", [Image.new("RGB", (8, 8)), []], "^labels: got a single one or none"),
        ("zero_shot", [Image.new("RGB", (8, 8)), ["dog", " "]], "^labels: one is empty"),
    ],
)
def test_arguments_of_a_wrong_kind_are_refused(full, method, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(full, method)(*arguments)
