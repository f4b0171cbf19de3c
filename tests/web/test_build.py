"""The builder of the page: the files next to it, and invalid input. Without a browser."""

import base64
import hashlib
import json
import re
import shutil

import pytest
from huggingface_hub import metadata_load

from tests.web.conftest import PAGE

pytestmark = pytest.mark.slow


def test_the_folder_has_page_libraries_model_and_card(build, exported, model, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    card = "---\nlicense: mit\n---\n\n# dcclip-demo\n\n# More\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "onnx/text_model_quantized.onnx").write_bytes(b"text")
    build(folder, tmp_path / "site")
    build(folder, f"{tmp_path}/site/")  # replaces the first
    site = json.loads((tmp_path / "site/site.json").read_text(encoding="utf-8"))
    assert (site["name"], site["example"]) == ("dcclip-demo", "example.png")
    assert site["dtypes"] == {"vision_model": "fp32", "text_model": "q8"}
    assert site["logit_scale"] == pytest.approx(model.logit_scale.exp().item())
    names = {path.name for path in (tmp_path / "site/model/onnx").iterdir()}
    assert names == {"vision_model.onnx", "text_model_quantized.onnx"}
    assert not (tmp_path / "site/model/model.safetensors").exists()  # the browser does not use it
    card = metadata_load(tmp_path / "site/README.md")
    assert (card["sdk"], card["title"], card["license"]) == ("static", "dcclip-demo", "mit")
    # every file that the page loads
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    loaded = [path.name for path in PAGE.iterdir() if path.suffix in (".js", ".css")]
    for name in (*loaded, *re.findall(r"vendor/[\w.-]+", page)):
        assert (tmp_path / "site" / name).is_file(), name


def test_a_model_that_was_not_exported_is_refused_with_the_next_step(build, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model", ignore=shutil.ignore_patterns("onnx"))
    run = build(folder, tmp_path / "site", check=False)
    assert run.returncode == 2 and "python training/export.py" in run.stderr
    assert not (tmp_path / "site").exists()


def test_a_folder_with_other_files_is_not_replaced(build, exported, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    run = build(exported, tmp_path, check=False)
    assert run.returncode == 2 and "output_dir" in run.stderr
    assert (tmp_path / "thesis.txt").exists()


def test_the_page_runs_nothing_but_its_own_scripts():
    """The policy names the import map, the only inline script, by its digest. Browser tests fail on a violation."""
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page).group(1)
    (import_map,) = re.findall(r"<script(?![^>]* src=)[^>]*>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(import_map.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; script-src 'self' ")
    assert "'unsafe" not in policy
    scripts = "".join(path.read_text(encoding="utf-8") for path in PAGE.glob("*.js"))
    unsafe = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\("
    assert not re.search(unsafe, scripts)
