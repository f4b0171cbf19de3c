"""The handler of Inference Endpoints, loaded from its file: labels with scores, errors with a status."""

import base64
import importlib.util
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor

pytestmark = pytest.mark.slow

EN = ["red apple", "green frog"]
ZH = ["红苹果", "青蛙", "按键"]


def load_handler(folder: Path):
    """The folder's handler.py, imported from its file as Inference Endpoints do."""
    spec = importlib.util.spec_from_file_location("dcclip_endpoint_handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


@pytest.fixture(scope="module")
def handler(finished):
    return load_handler(finished)


@pytest.fixture(scope="module")
def png(images) -> bytes:
    file = io.BytesIO()
    images[0].save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def expected(finished, images) -> dict[str, dict[str, float]]:
    """Scores of the package's model."""
    model, processor = DCCLIPModel.from_pretrained(finished).eval(), DCCLIPProcessor.from_pretrained(finished)
    scores = {}
    for language, labels in {"en": EN, "zh": ZH}.items():
        with torch.no_grad():
            logits = model(**processor(images=images[0], text=labels, return_tensors="pt")).logits_per_image[0]
        scores[language] = dict(zip(labels, logits.softmax(0).tolist(), strict=True))
    return scores


def requests(image: bytes) -> dict[str, tuple[dict, str]]:
    text = base64.b64encode(image).decode()
    return {
        "widget": ({"inputs": text, "parameters": {"candidate_labels": ZH}}, "zh"),
        "labels in one string": ({"inputs": text, "parameters": {"candidate_labels": "red apple, green frog"}}, "en"),
        "semicolons and lines": ({"inputs": text, "parameters": {"candidate_labels": "红苹果；青蛙\n按键"}}, "zh"),
        "Chinese commas": ({"inputs": text, "parameters": {"candidate_labels": "红苹果，青蛙、按键"}}, "zh"),
        "data URL": ({"inputs": "data:image/png;base64," + text, "candidate_labels": EN}, "en"),
        "image in a dict": ({"inputs": {"image": text, "candidate_labels": ZH}}, "zh"),
        "older widget": ({"image": text, "parameters": {"candidate_labels": "red apple,green frog"}}, "en"),
        "template": ({"inputs": text, "parameters": {"candidate_labels": EN, "hypothesis_template": "{}"}}, "en"),
    }


@pytest.mark.parametrize("name", requests(b""))
def test_responses_have_the_format_of_the_widget(handler, png, expected, name):
    payload, language = requests(png)[name]
    answers = handler(payload)
    assert [set(answer) for answer in answers] == [{"label", "score"}] * len(expected[language])
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(expected[language], abs=1e-5)
    assert [a["score"] for a in answers] == sorted((a["score"] for a in answers), reverse=True)


def test_a_template_changes_the_scores(handler, png):
    payload = {"inputs": base64.b64encode(png).decode(), "candidate_labels": EN}
    plain, sentence = (handler(payload | {"parameters": more}) for more in ({}, {"hypothesis_template": "a {}."}))
    assert {a["label"] for a in plain} == {a["label"] for a in sentence} == set(EN) and plain != sentence


def test_a_transparent_image_is_flattened_onto_white(handler, images):
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    white, black = (Image.new("RGB", (64, 64), colour) for colour in ("white", "black"))
    answers = [handler({"inputs": image, "candidate_labels": EN}) for image in (clear, white, black)]
    assert answers[0] == answers[1] != answers[2]


BAD = {
    "not an object": ([], "JSON object"),
    "no image": ({"parameters": {"candidate_labels": EN}}, "inputs is missing"),
    "not base64": ({"inputs": "%%%", "candidate_labels": EN}, "not base64"),
    "a URL": ({"inputs": "https://example.org/a.png", "candidate_labels": EN}, "does not download"),
    "base64 of no image": (
        {"inputs": base64.b64encode(b"text").decode(), "candidate_labels": EN},
        "cannot be decoded",
    ),
    "no labels": ({"inputs": "PNG"}, "candidate_labels is missing"),
    "empty labels": ({"inputs": "PNG", "candidate_labels": " , "}, "0 non-empty labels"),
    "labels of numbers": ({"inputs": "PNG", "candidate_labels": [1]}, "list of strings"),
    "too many labels": (
        {"inputs": "PNG", "candidate_labels": [str(n) for n in range(1001)]},
        "1001 labels; send 1 to 1000",
    ),
    "a label too long": ({"inputs": "PNG", "candidate_labels": ["frog " * 99]}, "at most 32"),
    "template without a placeholder": (
        {"inputs": "PNG", "candidate_labels": EN, "parameters": {"hypothesis_template": "a photo"}},
        "hypothesis_template",
    ),
    "parameters of another kind": ({"inputs": "PNG", "parameters": "x"}, "parameters is of type str"),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_requests_get_status_400_and_the_reason(handler, png, name):
    payload, reason = BAD[name]
    if isinstance(payload, dict) and payload.get("inputs") == "PNG":
        payload = payload | {"inputs": base64.b64encode(png).decode()}
    with pytest.raises(ValueError, match=reason) as error:
        handler(payload)
    assert error.value.status_code == 400


def test_many_labels_in_parts_have_the_scores_of_one_pass(handler, png, monkeypatch):
    """More labels than a forward pass takes."""
    labels = [f"label {number}" for number in range(150)]
    request = {"inputs": png, "candidate_labels": labels}
    found = {answer["label"]: answer["score"] for answer in handler(request)}
    monkeypatch.setitem(type(handler)._classify.__globals__, "LABELS_AT_ONCE", 1000)
    expected = {answer["label"]: answer["score"] for answer in handler(request)}
    assert list(found) != labels and found == pytest.approx(expected, abs=1e-6)


def test_one_request_at_a_time_is_decoded_and_encoded(handler, png, monkeypatch):
    """Each of fifty hostile images at once may take some hundred megabytes."""
    running, most = [], []
    parse = type(handler)._classify.__globals__["parse_request"]

    def slow(data, size):
        running.append(1)
        most.append(len(running))
        time.sleep(0.005)
        running.pop()
        return parse(data, size)

    monkeypatch.setitem(type(handler)._classify.__globals__, "parse_request", slow)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(handler, [{"inputs": png, "candidate_labels": ["a"]}] * 50))
    assert len(answers) == 50 and max(most) == 1


def test_more_requests_than_may_wait_are_told_that_the_endpoint_is_busy(handler, png, monkeypatch):
    monkeypatch.setattr(handler, "places", threading.BoundedSemaphore(1))
    assert handler({"inputs": png, "candidate_labels": ["a"]})
    handler.places.acquire()
    with pytest.raises(ValueError, match="send this one again later") as error:
        handler({"inputs": png, "candidate_labels": ["a"]})
    assert error.value.status_code == 503


def test_a_truncated_image_is_an_error(handler, png):
    with pytest.raises(ValueError, match="damaged"):
        handler({"inputs": base64.b64encode(png[: len(png) // 2]).decode(), "candidate_labels": EN})


def test_an_image_with_too_many_pixels_is_not_decoded(handler):
    file = io.BytesIO()
    Image.new("1", (10_000, 5_000)).save(file, "PNG")
    with pytest.raises(ValueError, match="10000 x 5000") as error:
        handler({"inputs": base64.b64encode(file.getvalue()).decode(), "candidate_labels": EN})
    assert error.value.status_code == 413
