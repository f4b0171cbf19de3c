"""The request handler of a model folder: requests of the widget's format in, ranked labels out, clear errors."""

import base64
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from modeling_dcclip import handler as module
from modeling_dcclip.handler import EndpointHandler
from tests.tiny import encoded

pytestmark = pytest.mark.slow

EN = ["red apple", "green frog"]
ZH = ["红苹果", "青蛙", "按键"]


@pytest.fixture(scope="module")
def handler(finished) -> EndpointHandler:
    return EndpointHandler(str(finished))


@pytest.fixture(scope="module")
def png(images) -> bytes:
    return encoded(images[0])


@pytest.fixture(scope="module")
def outputs(finished, images):
    """What the package's model gives for two images and all labels."""
    model = DCCLIPModel.from_pretrained(finished).eval()
    processor = DCCLIPProcessor.from_pretrained(finished)
    with torch.no_grad():
        return model(**processor(images=images[:2], text=[*EN, *ZH], return_tensors="pt"))


def test_answers_have_the_format_of_the_pipeline_and_the_scores_of_the_model(handler, png, outputs):
    text = base64.b64encode(png).decode()
    expected = outputs.logits_per_image[0, len(EN) :].softmax(0).tolist()
    for image, labels in (
        (f"{text[:9]}\n{text[9:]}", ZH),
        (base64.urlsafe_b64encode(png).decode().rstrip("="), ZH),
        (f"data:image/png;base64,{text}", ZH),
        (png, ZH),
        (text, "红苹果, 青蛙、按键"),
        (text, "红苹果；青蛙\n按键"),
    ):
        request = {"inputs": image, "parameters": {"candidate_labels": labels}}
        answers = handler(request)
        found = {answer["label"]: answer["score"] for answer in answers}
        assert found == pytest.approx(dict(zip(ZH, expected, strict=True)), abs=1e-5)
        assert answers == sorted(answers, key=lambda answer: -answer["score"])
        # a list of images is answered with a list
        assert handler(request | {"inputs": [image] * 2}) == [answers] * 2


def test_a_template_changes_the_scores(handler, png):
    labels = {"candidate_labels": EN}
    plain = handler({"inputs": png, "parameters": labels})
    sentence = labels | {"hypothesis_template": "a {}."}
    assert handler({"inputs": png, "parameters": sentence}) != plain


PNG = encoded(Image.new("RGB", (8, 8)))
PLACELESS = {"candidate_labels": EN, "hypothesis_template": "a photo"}
BAD_REQUESTS = [
    ([], "JSON object"),
    ({"task": ["embed"]}, "task"),
    ({"inputs": PNG, "parameters": "x"}, "object as `parameters`"),
    ({"inputs": PNG, "parameters": PLACELESS}, "one {}"),
]
for image, reason in (
    (None, r"inputs\[0\] is None"),
    ([], "inputs is"),
    ("https://example.org/a.png", "as base64"),
    (base64.b64encode(b"text").decode(), "cannot identify image file"),
    (encoded(Image.new("1", (10_000, 5_000))), "10000 x 5000"),
    ("A" * 60_000_000, "length is 60,000,000"),
    ([PNG, "%%%"], r"inputs\[1\]"),
    ([PNG] * 65, "list of 1 to 64"),
):
    BAD_REQUESTS.append(({"inputs": image, "parameters": {"candidate_labels": EN}}, reason))
for labels, reason in (
    (None, "candidate_labels is None"),
    (" , ", "list of 1 to 1000"),
    ([1], "candidate_labels has 1; send strings"),
    (["a"] * 1001, "list of 1 to 1000"),
    (["frog " * 99], "at most 32"),
    (["x" * 10_000_000], "1 to 1000 characters"),
    (["\ud800"], "valid Unicode"),
):
    BAD_REQUESTS.append(({"inputs": PNG, "parameters": {"candidate_labels": labels}}, reason))


@pytest.mark.parametrize(("request_", "reason"), BAD_REQUESTS, ids=range(len(BAD_REQUESTS)))
def test_a_request_that_cannot_be_answered_is_named(handler, request_, reason):
    with pytest.raises(ValueError, match=reason):
        handler(request_)


def test_one_request_at_a_time_is_decoded_and_encoded(handler, png, monkeypatch):
    """Each of many hostile images at once may take some hundred megabytes."""
    running, decode = [], module.open_image

    def slow(*arguments, **options):
        running.append(1)
        time.sleep(0.005)
        assert running.pop() and not running
        return decode(*arguments, **options)

    monkeypatch.setattr(module, "open_image", slow)
    request = {"inputs": png, "parameters": {"candidate_labels": ["a"]}}
    with ThreadPoolExecutor(20) as pool:
        assert len([*pool.map(handler, [request] * 20)]) == 20


def test_embeddings_are_those_of_the_model(handler, outputs, images):
    files = [base64.b64encode(encoded(image)).decode() for image in images[:2]]
    answer = handler({"task": "embed", "inputs": {"texts": [*EN, *ZH], "images": files}})
    np.testing.assert_allclose(answer["texts"], outputs.text_embeds, atol=1e-5)
    np.testing.assert_allclose(answer["images"], outputs.image_embeds, atol=1e-5)
    assert handler({"task": "embed", "inputs": {"texts": EN}}).keys() == {"texts"}
