"""The protocol of Immich's machine learning server: equal embeddings, and what is refused with its reason."""

import io
import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.photos import decoding
from modeling_dcclip.search.serve import api
from modeling_dcclip.search.serve.api import ApiServer
from tests.local_server import client_of, serving
from tests.tiny import encoded

VISUAL = json.dumps({"clip": {"visual": {"modelName": "ViT-B-32__openai", "options": {}}}})
TEXTUAL = json.dumps({"clip": {"textual": {"modelName": "ViT-B-32__openai"}}})
# the request of `MachineLearningRepository.predict` of Immich's server
NODE = """
const [url, entries, kind, value] = process.argv.slice(1);
const body = new FormData();
body.append("entries", entries);
if (kind === "image") {
  const { readFile } = await import("node:fs/promises");
  body.append("image", new Blob([new Uint8Array(await readFile(value))]));
} else body.append("text", value);
const ping = await fetch(new URL("/ping", url));
const response = await fetch(new URL("/predict", url), { method: "POST", body });
console.log(JSON.stringify([ping.ok, response.ok, await response.json()]));
"""


@pytest.fixture(scope="module")
def runtime(color_model):
    return Runtime(color_model)


@pytest.fixture(scope="module")
def server(runtime):
    with ApiServer(runtime, port=0) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with client_of(server) as client:
        yield client


@pytest.fixture
def predict(client):
    def send(data, files=()):
        return client.post("/predict", data=data, files=[*files, ("none", (None, ""))])

    return send


def images():
    """Files of several formats, sizes and orientations."""
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.effect_noise((300, 200), 90)
    for options in ({"format": "JPEG", "exif": exif}, {"format": "PNG"}, {"format": "WEBP"}):
        yield encoded(noise.convert("RGB"), options.pop("format"), **options)


def test_the_server_is_found(client):
    assert client.get("/ping").text == "pong"
    assert client.get("/").json()["message"].startswith("DC-CLIP")
    assert client.get("/ping", headers={"Host": "host.docker.internal:3003"}).status_code == 200


def test_images_and_texts_equal_the_runtime_bit_for_bit(predict, runtime):
    for content in images():
        answer = predict({"entries": VISUAL}, [("image", content)]).json()
        vector = np.array(json.loads(answer["clip"]), np.float32)
        assert np.array_equal(vector, runtime.encode_images([content])[0])
        is_turned = Image.open(io.BytesIO(content)).format == "JPEG"
        assert (answer["imageWidth"], answer["imageHeight"]) == (
            (200, 300) if is_turned else (300, 200)
        )
    for text in ("红", "green " * 90):
        answer = predict({"entries": TEXTUAL, "text": text}).json()
        assert answer.keys() == {"clip"}
        vector = np.array(json.loads(answer["clip"]), np.float32)
        assert np.array_equal(vector, runtime.encode_texts([text], truncate=True)[0])


def entry(task, kind):
    return json.dumps({task: {kind: {"modelName": "a"}}})


IMAGE = ("image", b"GIF89a")


@pytest.mark.parametrize(
    ("data", "files", "status", "reason"),
    [
        ({"text": "red"}, [], 422, "entries: send JSON"),
        ({"entries": "[" * 60_000, "text": "red"}, [], 422, "entries: send JSON"),
        ({"entries": '{"clip": {"textual": {}}}', "text": "red"}, [], 422, "entries: send JSON"),
        ({"entries": "{}", "text": "red"}, [], 422, "got none"),
        ({"entries": entry("draw", "visual")}, [IMAGE], 422, "got draw visual"),
        ({"entries": entry("clip", "audio")}, [IMAGE], 422, "got clip audio"),
        ({"entries": entry("facial-recognition", "detection")}, [IMAGE], 400, "faces. In Immich"),
        ({"entries": [VISUAL, VISUAL]}, [IMAGE], 422, "entries: send JSON"),
        ({"entries": VISUAL}, [], 400, "image: got 0"),
        ({"entries": VISUAL, "image": "red"}, [], 400, "image: got 1"),
        ({"entries": VISUAL}, [IMAGE, IMAGE], 400, "image: got 2"),
        ({"entries": VISUAL}, [IMAGE] * 3, 400, "Too many files"),
        ({"entries": VISUAL}, [IMAGE], 400, "image: it cannot be read"),
        ({"entries": TEXTUAL}, [IMAGE], 400, "text: got 0"),
        ({"entries": TEXTUAL, "text": " "}, [], 400, "text: it has 1 characters"),
        ({"entries": TEXTUAL, "text": "a" * 1001}, [], 400, "text: it has 1,001 characters"),
        ({"entries": TEXTUAL, "text": "a" * 70_000}, [], 400, "The form cannot be read"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_reason(predict, data, files, status, reason):
    response = predict(data, files)
    assert response.status_code == status
    assert reason in response.json()["error"]


def test_reasons_are_in_the_language_of_the_request(client):
    files = [("entries", (None, entry("ocr", "detection")))]
    answer = client.post("/predict", files=files, headers={"Accept-Language": "zh"}).json()
    assert answer["error"].startswith("本服务不识别图片中的文字。")


def test_bombs_and_large_bodies_are_refused(predict, monkeypatch):
    monkeypatch.setattr(decoding.PAGE_MEMORY, "limit", 10_000)
    bomb = [("image", encoded(Image.new("RGB", (300, 200)), "PNG"))]
    response = predict({"entries": VISUAL}, bomb)
    assert response.status_code == 400
    assert "too many pixels" in response.json()["error"]
    monkeypatch.setattr(api, "MAX_BODY", 100)
    assert predict({"entries": VISUAL}, bomb).status_code == 413


def test_the_name_of_a_model_is_noted_once(predict, server, capsys):
    server._asked.clear()
    for _ in range(2):
        predict({"entries": TEXTUAL, "text": "red"})
    assert capsys.readouterr().err.count("'ViT-B-32__openai' was asked for") == 1


@pytest.mark.slow
def test_the_request_of_immich_is_answered(runtime, paint, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    path = paint(tmp_path / "red.png", "red")
    with serving(ApiServer(runtime, port=0)) as server:
        for entries, kind, value in ((VISUAL, "image", str(path)), (TEXTUAL, "text", "红")):
            command = ["node", "--input-type=module", "-e", NODE, server.url, entries, kind, value]
            run = subprocess.run(command, check=True, capture_output=True, timeout=60)
            is_found, is_answered, answer = json.loads(run.stdout)
            assert is_found
            assert is_answered
            assert len(json.loads(answer["clip"])) == runtime.dimension
