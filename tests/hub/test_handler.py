"""The handler behind the local endpoint: JSON or bytes in, JSON out, errors as 4xx."""

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import huggingface_hub
import pytest
import torch
from huggingface_hub import InferenceClient
from PIL import Image

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.hub import endpoint
from training.hub.endpoint import BadBody, EndpointServer, Room, load_handler, main

pytestmark = pytest.mark.slow

EN = ["red apple", "green frog"]
ZH = ["红苹果", "青蛙", "按键"]
MEMORY_OF_LARGE_IMAGES = """
import sys
from pathlib import Path

from PIL import Image

from training.hub.endpoint import load_handler
from training.utils.process import resident_bytes

handler = load_handler(Path(sys.argv[1]))
for size in (100, 4000, 3000, 4000, 3500, 4000, 2500):
    handler({"inputs": Image.new("RGBA", (size, size), (1, 2, 3, 4)), "candidate_labels": ["a"]})
    print(resident_bytes())
"""


@pytest.fixture(scope="module")
def handler(finished):
    """The folder's handler.py, imported from its file as Inference Endpoints do."""
    return load_handler(finished)


@pytest.fixture(scope="module")
def server(handler) -> Iterator[EndpointServer]:
    with EndpointServer(handler, "127.0.0.1", 0, 44 * 2**20) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def url(server) -> str:
    return server.url


@pytest.fixture(scope="module")
def png(images) -> bytes:
    file = io.BytesIO()
    images[0].save(file, "PNG")
    return file.getvalue()


def post(url: str, payload, kind: str = "application/json"):
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    try:
        with urlopen(Request(url, data, {"Content-Type": kind})) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


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
def test_responses_have_the_format_of_the_widget(url, png, expected, name):
    payload, language = requests(png)[name]
    status, answers = post(url, payload)
    assert status == 200
    assert [set(answer) for answer in answers] == [{"label", "score"}] * len(expected[language])
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(expected[language], abs=1e-5)
    assert [a["score"] for a in answers] == sorted((a["score"] for a in answers), reverse=True)


def test_the_hub_client_parses_the_response(url, png, expected, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    answers = InferenceClient(model=url).zero_shot_image_classification(png, ZH)
    assert {answer.label: answer.score for answer in answers} == pytest.approx(expected["zh"], abs=1e-5)


def test_a_template_changes_the_scores(url, png):
    payload = {"inputs": base64.b64encode(png).decode(), "candidate_labels": EN}
    plain, sentence = (post(url, payload | {"parameters": more})[1] for more in ({}, {"hypothesis_template": "a {}."}))
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
def test_invalid_requests_get_status_400_and_the_reason(url, png, name):
    payload, reason = BAD[name]
    if isinstance(payload, dict) and payload.get("inputs") == "PNG":
        payload = payload | {"inputs": base64.b64encode(png).decode()}
    status, answer = post(url, payload)
    assert status == 400 and reason in answer["error"]


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


def test_large_blocks_of_memory_go_back_to_the_system(finished, run_python):
    """Pillow's blocks of 16 MiB stayed with the process after the first large image.

    Training, which other tests do in this process, keeps freed memory on purpose.
    """
    output = run_python("-c", MEMORY_OF_LARGE_IMAGES, str(finished)).stdout
    small, *large = (int(count) for count in output.split())
    assert max(large) < small + 16 * 2**20


def test_a_truncated_image_is_an_error(url, png):
    payload = {"inputs": base64.b64encode(png[: len(png) // 2]).decode(), "candidate_labels": EN}
    status, answer = post(url, payload)
    assert status == 400 and "damaged" in answer["error"]


def test_an_image_with_too_many_pixels_is_not_decoded(url):
    file = io.BytesIO()
    Image.new("1", (10_000, 5_000)).save(file, "PNG")
    status, answer = post(url, {"inputs": base64.b64encode(file.getvalue()).decode(), "candidate_labels": EN})
    assert status == 413 and "10000 x 5000" in answer["error"]


def test_raw_bytes_without_labels_are_an_error(url, png):
    status, answer = post(url, png, "image/png")
    assert status == 400 and "candidate_labels is missing" in answer["error"]


def answer_to(server: EndpointServer, *lines: str, body: bytes = b"") -> str:
    """Answer to a request whose every line is given."""
    with socket.create_connection(server.server_address, timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_the_endpoint_says_when_it_is_ready(url):
    with urlopen(f"{url}health") as answer:
        assert json.load(answer) == {"status": "ok"}
    assert post(f"{url}models", {})[0] == 404


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["POST / HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", "Content-Length: 99999999999"], 413),
        (["POST / HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", "Content-Length: " + "9" * 99], 413),
        (["POST / HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", "Content-Length: -1"], 411),
        (["POST / HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"], 411),
        (["POST / HTTP/1.1", "Host: 127.0.0.1", "Content-Type: text/plain", "Content-Length: 2"], 415),
        (["POST / HTTP/1.1", "Host: evil.example", "Content-Type: application/json", "Content-Length: 2"], 403),
        (["GET /health HTTP/1.1", "Host: localhost:1", "Origin: http://evil.example"], 403),
        (["GET /health HTTP/1.1", "Host: [::1]:1", "Origin: http://[::1]:1"], 200),
        (["GET /../handler.py HTTP/1.1", "Host: localhost"], 404),
    ],
)
def test_bodies_are_limited_and_other_sites_are_refused(server, lines, status):
    assert answer_to(server, *lines).startswith(f"HTTP/1.0 {status} ")


def test_a_body_that_is_no_json_is_an_error(url):
    for body in (b"{", b"\xff", b"[" * 100_000):
        status, answer = post(url, body)
        assert status == 400 and "not JSON" in answer["error"]


def test_a_body_with_more_values_than_memory_should_hold_is_an_error(url):
    status, answer = post(url, b"[" + b"[]," * 100_000 + b"[]]")
    assert status == 413 and "send at most 100,000" in answer["error"]


def test_a_body_that_finds_no_room_is_answered_and_not_read(server, url, png, monkeypatch):
    """The answer arrives although the client is still sending."""
    monkeypatch.setattr(endpoint, "BUSY_AFTER_S", 0.1)
    payload = json.dumps({"inputs": base64.b64encode(png).decode(), "candidate_labels": EN}).encode()
    with server.room.take(server.max_bytes - len(payload)):
        status, answer = post(url, payload + b" " * 10_000_000)
        assert status == 503 and "busy" in answer["error"]
        assert post(url, payload)[0] == 200
    assert post(url, payload + b" " * 10_000_000)[0] == 200


def test_more_requests_than_may_wait_are_answered_at_once(monkeypatch):
    room = Room(10)
    monkeypatch.setattr(endpoint, "MAX_WAITING", 2)
    with room.take(1), room.take(1):
        for _ in range(2):
            with pytest.raises(BadBody, match="busy"), room.take(1):
                pass
    with room.take(10):
        assert room.free == 0
    assert room.free == 10 and room.num_waiting == 0


def test_a_body_that_does_not_arrive_is_an_error(server, monkeypatch):
    lines = ["POST / HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Content-Length: 9"]
    monkeypatch.setattr(endpoint, "READ_TIMEOUT_S", -1)
    answer = answer_to(server, *lines, body=b"123")
    assert answer.startswith("HTTP/1.0 408 ") and "9 bytes, of which" in answer


def test_options_of_the_endpoint_that_cannot_be_used_are_errors(server, tmp_path, finished, capsys):
    port = str(server.server_address[1])
    for options, message in (
        (["--model", str(tmp_path)], "model: "),
        (["--port", "99999"], "port: must be in"),
        (["--max_body_mib", "0"], "max_body_mib: "),
        (["--model", str(finished), "--port", port], f"port: 127.0.0.1:{port} cannot be used"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(options)
        assert stopped.value.code == 2 and message in capsys.readouterr().err
