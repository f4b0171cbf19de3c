"""Secrets in files to publish."""

import base64
import json
from pathlib import Path

import onnx
import pytest
import requests
import torch
from safetensors.torch import save_file

from tests.tiny import ROOT
from training.hub.contents import list_contents
from training.hub.secret_scan import OTHERS, PLUGINS, find_secret

MODEL = ROOT / "model_cards" / "dcclip-tiny-photo"


def jwt() -> str:
    parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": "1234567890"})
    header, body = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{header}.{body}.c2lnbmF0dXJl"


# made up, and put together here so that no scanner takes this file for a leak
SECRETS = {
    "AWS Access Key": "AKIA" + "Q7W2" * 4,
    "Azure Storage Account access key": "AccountKey=" + "Ab1+" * 21 + "Ab==",
    "Basic Auth Credentials": "https://me:" + "hunter2@host.example/model",
    "GitHub Token": "ghp_" + "a1B2" * 9,
    "GitLab Token": "glpat-" + "a1B2" * 5,
    "JSON Web Token": jwt(),
    "Mailchimp Access Key": "0123456789abcdef" * 2 + "-us12",
    "Private Key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "PyPI Token": "pypi-" + "AgEIcHlwaS5vcmc" + "a1B2" * 20,
    "SendGrid API Key": "SG." + "a1B2" * 5 + "ab." + "a1B2" * 10 + "abc",
    "Slack Token": "xoxb-" + "123456789012-" + "a1B2" * 5,
    "Stripe Access Key": "sk_live_" + "a1B2" * 6,
    "Telegram Bot Token": "123456789:" + "AA" + "a1B2" * 8 + "a",
    "Twilio API Key": "SK" + "0123456789abcdef" * 2,
    "Hugging Face token": "hf_" + "aBcD" * 9,
    "fine-grained GitHub token": "github_pat_" + "a1B2" * 10,
    "Google API key": "AIza" + "a1B2" * 8 + "a1B",
    "API key of a language model": "sk-ant-" + "a1B2" * 12,
    "private key": "-----BEGIN ENCRYPTED " + "PRIVATE KEY-----",
}
HARMLESS = (
    "sha256: " + "0123456789abcdef" * 4,
    "https://huggingface.co/google/siglip2-base-patch16-224/resolve/main/config.json",
    "hf://datasets/me/set@0123456789abcdef0123456789abcdef01234567/a.parquet",
    "http://localhost:8000/a@b, me@host.example, me:you@",
    'tokenizer.json: {"hf_": 1, "sk-": 2, "AKIA": 3, "ghp_": 4, "password": 5}',
    "secret, password and token are words, and 密码 too",
    "torch.nn.functional.scaled_dot_product_attention(query, key, value)",
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """detect-secrets can ask a service whether a secret is valid, which would send it there."""

    def refuse(*arguments, **options):
        raise AssertionError("a request was made")

    monkeypatch.setattr(requests.Session, "request", refuse)


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_found_in_texts_and_in_binary_files(tmp_path, kind):
    secret = SECRETS[kind]
    text = tmp_path / "README.md"
    text.write_text(f"# 模型\n\nfirst {secret} last\n", encoding="utf-8")
    assert find_secret(text) == f"{kind}, line 3"
    graph = onnx.helper.make_model(onnx.helper.make_graph([], "towers", [], []), producer_name="dcclip")
    onnx.helper.set_model_props(graph, {"note": f"see {secret}"})
    onnx.save(graph, tmp_path / "model.onnx")
    assert find_secret(tmp_path / "model.onnx") == kind
    save_file({"weight": torch.rand(1000)}, tmp_path / "model.safetensors", {"note": f"see {secret}"})
    assert find_secret(tmp_path / "model.safetensors") == kind


def test_every_own_pattern_has_an_example():
    assert set(OTHERS) <= set(SECRETS)
    assert len({plugin.secret_type for plugin in PLUGINS}) == len(PLUGINS)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_looks_like_a_secret_passes(tmp_path, text):
    for name in ("README.md", "tokenizer.json", "model.onnx"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert find_secret(tmp_path / name) is None


def test_weights_that_look_like_a_password_by_chance_pass(tmp_path):
    noise, url = "Q]v+8#kE0aZ~pW3m", SECRETS["Basic Auth Credentials"]
    for name, found in (("weights.onnx", None), ("notes.txt", "Basic Auth Credentials, line 1")):
        (tmp_path / name).write_text(f"{noise}://8:896@{noise}", encoding="utf-8")
        assert find_secret(tmp_path / name) == found
    (tmp_path / "both.onnx").write_text(f"{noise}://8:896@{noise} {url}", encoding="utf-8")
    assert find_secret(tmp_path / "both.onnx") == "Basic Auth Credentials"


def test_an_empty_file_passes(tmp_path):
    for name in ("README.md", "model.onnx"):
        Path(tmp_path / name).touch()
        assert find_secret(tmp_path / name) is None


def test_our_own_model_passes():
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= {content.path for content in list_contents(MODEL)}
