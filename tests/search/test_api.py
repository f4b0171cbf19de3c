"""`dcclip serve --api`: the answers of the handler over HTTP, without PyTorch, and what is refused."""

import base64
import json

import numpy as np
import pytest

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search import command
from modeling_dcclip.search.photos import decoding
from modeling_dcclip.search.serve import api
from modeling_dcclip.search.serve.api import ApiServer
from tests.local_server import client_of


@pytest.fixture(scope="module")
def runtime(color_model):
    return Runtime(color_model)


@pytest.fixture(scope="module")
def client(runtime):
    with ApiServer(runtime, port=0) as server, client_of(server) as client:
        yield client


@pytest.fixture
def post(client):
    def send(body, path="/api", **headers):
        content = body if isinstance(body, bytes) else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        kind = {"Content-Type": "application/json"}
        response = client.post(path, content=content, headers=kind | named)
        return response.status_code, response.json()

    return send


@pytest.fixture
def red(tmp_path, paint):
    return base64.b64encode(paint(tmp_path / "red.png", "red").read_bytes()).decode()


def test_embeddings_equal_the_runtime_in_both_languages(post, runtime, red):
    texts = ["红", "green"]
    status, answer = post({"task": "embed", "inputs": {"texts": texts, "images": [red]}})
    assert status == 200
    assert answer.keys() == {"texts", "images"}
    np.testing.assert_allclose(answer["texts"], runtime.encode_texts(texts), atol=1e-6)
    expected = runtime.encode_images([base64.b64decode(red)])
    np.testing.assert_allclose(answer["images"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"[" * 100_000, "JSON"),
        ({"task": "draw"}, "task"),
        ({"task": "embed", "inputs": {"images": ["AAAA", 5]}}, "images[0]"),
    ],
)
def test_wrong_requests_name_the_field(post, body, field):
    status, answer = post(body)
    assert status == 400
    assert field in answer["error"]


def test_images_are_decoded_within_the_memory_of_the_page(post, red, monkeypatch):
    monkeypatch.setattr(decoding.PAGE_MEMORY, "limit", 1000)
    requests = [
        {"task": "embed", "inputs": {"images": [red]}},
        {"inputs": red, "parameters": {"candidate_labels": ["red"]}},
    ]
    for request in requests:
        status, answer = post(request, Accept_Language="zh")
        assert status == 400
        assert "像素过多" in answer["error"]


def test_large_bodies_other_types_and_other_sites_are_refused(post, monkeypatch):
    assert post({}, path="/none")[0] == 404
    assert post({}, Content_Type="text/plain")[0] == 415
    assert post({}, Sec_Fetch_Site="cross-site")[0] == 403
    monkeypatch.setattr(api, "MAX_BODY", 1000)
    status, answer = post(b"x" * 5_000_000)
    assert status == 413
    assert "5,000,000" in answer["error"]


def test_the_description_is_served(client):
    description = client.get("/openapi.json").json()
    assert {"Embed", "Classify"} <= {*description["components"]["schemas"]}


def test_the_command_needs_no_index(tmp_path, color_model, monkeypatch, capsys):
    monkeypatch.setattr(ApiServer, "serve_forever", lambda server: None)
    folders = ["--index", str(tmp_path), "--model", str(color_model)]
    command.main(["serve", "--api", *folders, "--port", "0"])
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")
