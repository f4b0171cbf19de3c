"""Assembling the page: the files next to it, and invalid input. Without a browser."""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Image
from huggingface_hub import metadata_load
from safetensors import safe_open

from training.edge.web import LIBRARIES, PAGE, PAGE_FILES, SUFFIXES, WebOptions, main, write_page

pytestmark = pytest.mark.slow


@pytest.fixture
def libraries(tmp_path) -> Path:
    """Placeholders for the npm packages."""
    for source in LIBRARIES.values():
        path = tmp_path / "node_modules" / source
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"library")
    return tmp_path / "node_modules"


@pytest.fixture
def folder(teacher_folder, tmp_path) -> Path:
    """A model folder with placeholders for the exported towers."""
    folder = tmp_path / "model"
    shutil.copytree(teacher_folder, folder)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "vision_model.onnx").write_bytes(b"vision")
    for suffix in SUFFIXES.values():
        (folder / "onnx" / f"text_model{suffix}.onnx").write_bytes(b"text" + suffix.encode())
    return folder


def test_the_folder_has_page_libraries_model_and_images(
    folder, libraries, corpus, train_rows, tmp_path
):
    output = tmp_path / "site"
    (folder / "README.md").write_text(
        "---\nlicense: mit\n---\n\n# dcclip-demo\n\n# More\n", encoding="utf-8"
    )
    options = WebOptions(
        model=str(folder),
        images=str(corpus / "train.parquet"),
        node_modules=str(libraries),
        output_dir=str(output),
    )
    write_page(options)
    write_page(options)  # replaces the first
    assert (output / "index.html").read_bytes() == (PAGE / "index.html").read_bytes()
    assert {path.name for path in (output / "vendor").iterdir()} == set(LIBRARIES)
    assert {path.name for path in (output / "model/onnx").iterdir()} == {
        "vision_model.onnx",
        "text_model_quantized.onnx",
    }
    assert not (output / "model" / "model.safetensors").exists()  # the browser does not use it
    card = metadata_load(output / "README.md")
    assert (card["sdk"], card["title"], card["license"]) == ("static", "dcclip-demo", "mit")
    site = json.loads((output / "site.json").read_text())
    assert site["name"] == "dcclip-demo"
    assert site["dtypes"] == {"vision_model": "fp32", "text_model": "q8"}
    with safe_open(output / "images" / "index.safetensors", framework="pt") as index:
        embeddings, titles = index.get_tensor("embeddings"), json.loads(index.metadata()["titles"])
    assert embeddings.dtype == torch.float16
    torch.testing.assert_close(
        embeddings.float().norm(dim=-1), torch.ones(len(train_rows)), rtol=0, atol=1e-3
    )
    assert titles[3] == {"en": train_rows[3]["en"], "zh": train_rows[3]["zh"]}
    assert len(list((output / "images").glob("*.webp"))) == len(train_rows)


def test_images_that_do_not_decode_are_left_out_and_listed(
    folder, libraries, images, tmp_path, capsys, refusal
):
    photos = tmp_path / "photos"
    photos.mkdir()
    images[0].save(photos / "a cat.png")
    (photos / "broken.png").write_bytes(b"not an image")
    images[1].save(photos / "狗.jpg")
    arguments = ["--model", str(folder), "--images", str(photos), "--node_modules", str(libraries)]
    main([*arguments, "--output_dir", str(tmp_path / "site")])
    output = capsys.readouterr().out
    assert re.search(r"left out .*broken\.png: UnidentifiedImageError", output)
    assert (
        f"{tmp_path / 'site'}: the page is complete" in output and "python -m http.server" in output
    )
    with safe_open(tmp_path / "site" / "images" / "index.safetensors", framework="pt") as index:
        assert json.loads(index.metadata()["titles"]) == [{"en": "a cat"}, {"en": "狗"}]
    for path in photos.iterdir():
        path.write_bytes(b"not an image")
    assert "none of the 3 images" in refusal(main, *arguments, "--output_dir", tmp_path / "other")


def test_a_title_is_the_first_caption_of_each_language_that_has_one(
    folder, libraries, images, tmp_path
):
    captions = {"en": [None, ["", "a fox"]], "zh": [["猫", "小猫"], []]}
    rows = Dataset.from_dict({"image": images[:2], **captions}).cast_column("image", Image())
    rows.to_parquet(tmp_path / "rows.parquet")
    arguments = [
        "--model",
        str(folder),
        "--images",
        str(tmp_path / "rows.parquet"),
        "--node_modules",
        str(libraries),
    ]
    main([*arguments, "--output_dir", str(tmp_path / "site")])
    with safe_open(tmp_path / "site" / "images" / "index.safetensors", framework="pt") as index:
        assert json.loads(index.metadata()["titles"]) == [{"zh": "猫"}, {"en": "a fox"}]


def test_all_page_files_and_imported_modules_are_listed():
    names = {path.name for path in PAGE.iterdir() if path.suffix in (".js", ".css", ".html")}
    assert names == set(PAGE_FILES)
    for name in names:
        for module in re.findall(r'from "\./([^"]+)"', (PAGE / name).read_text(encoding="utf-8")):
            assert module in names
    assert set(re.findall(r"\./vendor/([\w.-]+)", (PAGE / "index.html").read_text())) <= set(
        LIBRARIES
    )


def test_the_page_runs_nothing_but_its_own_scripts():
    """The policy names the import map, the only inline script, by its digest. Browser tests fail on a violation."""
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page).group(1)
    (import_map,) = re.findall(r"<script(?![^>]* src=)[^>]*>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(import_map.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy and policy.startswith(
        "default-src 'none'; script-src 'self' "
    )
    assert "unsafe-inline" not in policy and "unsafe-eval" not in policy.replace(
        "wasm-unsafe-eval", ""
    )
    assert not re.search(r"""\s(style|on[a-z]+)=["']""", page)
    scripts = "".join(path.read_text(encoding="utf-8") for path in PAGE.glob("*.js"))
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", scripts
    )


def test_a_folder_with_other_files_is_not_replaced(folder, libraries, tmp_path, refusal):
    (mine := tmp_path / "mine").mkdir()
    (mine / "thesis.txt").write_text("years of work")
    arguments = [
        "--model",
        str(folder),
        "--node_modules",
        str(libraries),
        "--output_dir",
        str(mine),
    ]
    assert "output_dir" in refusal(main, *arguments) and (mine / "thesis.txt").exists()
