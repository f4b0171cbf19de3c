"""The request handler of a model folder: requests of the widget's format in, ranked labels out, clear errors."""

import base64
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from modeling_dcclip import handler as module
from modeling_dcclip.handler import BadRequest, EndpointHandler
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
def expected(finished, images) -> dict[str, dict[str, float]]:
    """Scores of the package's model."""
    model, processor = (
        DCCLIPModel.from_pretrained(finished).eval(),
        DCCLIPProcessor.from_pretrained(finished),
    )
    scores = {}
    for language, labels in {"en": EN, "zh": ZH}.items():
        with torch.no_grad():
            logits = model(
                **processor(images=images[0], text=labels, return_tensors="pt")
            ).logits_per_image[0]
        scores[language] = dict(zip(labels, logits.softmax(0).tolist(), strict=True))
    return scores


def requests(image: bytes) -> dict[str, tuple[dict, str]]:
    text = base64.b64encode(image).decode()
    return {
        "widget": ({"inputs": text, "parameters": {"candidate_labels": ZH}}, "zh"),
        "labels in one string": (
            {"inputs": text, "parameters": {"candidate_labels": "red apple, green frog"}},
            "en",
        ),
        "semicolons and lines": (
            {"inputs": text, "parameters": {"candidate_labels": "红苹果；青蛙\n按键"}},
            "zh",
        ),
        "data URL": ({"inputs": "data:image/png;base64," + text, "candidate_labels": EN}, "en"),
        "image in a dict": ({"inputs": {"image": text, "candidate_labels": ZH}}, "zh"),
        "older widget": (
            {"image": image, "parameters": {"candidate_labels": "red apple,green frog"}},
            "en",
        ),
        "template": (
            {"inputs": text, "parameters": {"candidate_labels": EN, "hypothesis_template": "{}"}},
            "en",
        ),
    }


@pytest.mark.parametrize("name", requests(b""))
def test_answers_have_the_format_of_the_widget_and_the_scores_of_the_model(
    handler, png, expected, name
):
    request, language = requests(png)[name]
    answers = handler(request)
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(
        expected[language], abs=1e-5
    )
    assert [a["score"] for a in answers] == sorted((a["score"] for a in answers), reverse=True)


def test_a_template_changes_the_scores(handler, png):
    request = {"inputs": png, "candidate_labels": EN}
    plain, sentence = (
        handler(request | {"parameters": more}) for more in ({}, {"hypothesis_template": "a {}."})
    )
    assert {a["label"] for a in plain} == {a["label"] for a in sentence} == set(
        EN
    ) and plain != sentence


PNG = encoded(Image.new("RGB", (8, 8)))
BAD = {
    "not an object": ([], 400, "JSON object"),
    "no image": ({"inputs": None}, 400, "inputs is missing"),
    "not base64": ({"inputs": "%%%"}, 400, "not base64"),
    "a URL": ({"inputs": "https://example.org/a.png"}, 400, "does not download"),
    "base64 of no image": (
        {"inputs": base64.b64encode(b"text").decode()},
        400,
        "cannot be decoded",
    ),
    "truncated": ({"inputs": encoded(Image.effect_noise((64, 64), 50))[:900]}, 400, "damaged"),
    "too many pixels": ({"inputs": encoded(Image.new("1", (10_000, 5_000)))}, 413, "10000 x 5000"),
    "no labels": ({"candidate_labels": None}, 400, "candidate_labels is missing"),
    "empty labels": ({"candidate_labels": " , "}, 400, "0 non-empty labels"),
    "labels of numbers": ({"candidate_labels": [1]}, 400, "list of strings"),
    "too many labels": ({"candidate_labels": [str(n) for n in range(1001)]}, 400, "1001 labels"),
    "a label too long": ({"candidate_labels": ["frog " * 99]}, 400, "at most 32"),
    "no placeholder": (
        {"parameters": {"hypothesis_template": "a photo"}},
        400,
        "hypothesis_template",
    ),
    "parameters of the wrong type": ({"parameters": "x"}, 400, "parameters is of type str"),
    "a label of 10 MB": (
        {"candidate_labels": ["x" * 10_000_000]},
        413,
        "has 10,000,000 characters",
    ),
    "labels of 10 MB": ({"candidate_labels": "x" * 10_000_000}, 413, "has 10,000,000 characters"),
    "half a character": ({"candidate_labels": ["\ud800"]}, 400, "is not valid Unicode"),
    "many placeholders": ({"hypothesis_template": "{}" * 9}, 400, "9 places"),
    "a long template": ({"hypothesis_template": "{}" + "x" * 2000}, 413, "has 2,002 characters"),
    "60 MB of base64": ({"inputs": "A" * 60_000_000}, 413, "has 60,000,000 characters"),
    "40 MB": ({"inputs": b"A" * 40_000_000}, 413, "has 40,000,000 bytes"),
    "a list of tasks": ({"task": ["embed"]}, 400, "task"),
    "a text to embed too long": (
        {"task": "embed", "inputs": {"texts": ["frog " * 99]}},
        400,
        "texts",
    ),
    "a second image": ({"task": "embed", "inputs": {"images": [PNG, "%%%"]}}, 400, r"images\[1\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_requests_name_the_field(handler, png, name):
    request, status, reason = BAD[name]
    if isinstance(request, dict):
        request = {"inputs": png, "candidate_labels": EN} | request
    with pytest.raises(BadRequest, match=reason) as error:
        handler(request)
    assert error.value.status_code == status


def test_many_labels_in_parts_have_the_scores_of_one_pass(handler, png, monkeypatch):
    labels = [f"label {number}" for number in range(150)]
    request = {"inputs": png, "candidate_labels": labels}
    found = {answer["label"]: answer["score"] for answer in handler(request)}
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 1000)
    expected = {answer["label"]: answer["score"] for answer in handler(request)}
    assert list(found) != labels and found == pytest.approx(expected, abs=1e-6)


def test_one_request_at_a_time_is_decoded_and_encoded(handler, png, monkeypatch):
    """Each of fifty hostile images at once may take some hundred megabytes."""
    running, most, parse = [], [], module.parse_request

    def slow(data, size):
        running.append(1)
        most.append(len(running))
        time.sleep(0.005)
        running.pop()
        return parse(data, size)

    monkeypatch.setattr(module, "parse_request", slow)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(handler, [{"inputs": png, "candidate_labels": ["a"]}] * 50))
    assert len(answers) == 50 and max(most) == 1


def test_embeddings_are_those_of_the_model(handler, finished, images):
    model, processor = (
        DCCLIPModel.from_pretrained(finished).eval(),
        DCCLIPProcessor.from_pretrained(finished),
    )
    with torch.no_grad():
        outputs = model(**processor(images=images[:2], text=[*EN, *ZH], return_tensors="pt"))
    files = [base64.b64encode(encoded(image)).decode() for image in images[:2]]
    answer = handler({"task": "embed", "inputs": {"texts": [*EN, *ZH], "images": files}})
    for name, expected in {"texts": outputs.text_embeds, "images": outputs.image_embeds}.items():
        torch.testing.assert_close(torch.tensor(answer[name]), expected, atol=1e-5, rtol=0)
    assert handler({"task": "embed", "inputs": {"texts": EN}}).keys() == {"texts"}
