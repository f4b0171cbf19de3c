"""A tiny exported model in its page, built by Node and served on localhost."""

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from tests.browser import Visit
from tests.local_server import serving
from tests.tiny import CUT_EFFICIENTNET, ROOT, make_model

PAGE = ROOT / "model_cards" / "web"


@pytest.fixture(scope="package")
def build() -> Callable[..., subprocess.CompletedProcess]:
    """Run the builder of the page."""
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    if not (PAGE / "node_modules").is_dir():
        pytest.skip("run `npm ci --ignore-scripts --prefix model_cards/web`")

    def run(model: Path, output_dir: Path, check: bool = True) -> subprocess.CompletedProcess:
        command = ["node", PAGE / "build.mjs", "--model", model, "--output_dir", output_dir]
        return subprocess.run(
            [*map(str, command)], check=check, capture_output=True, text=True, timeout=120
        )

    return run


@pytest.fixture(scope="package")
def model(processor):
    return make_model(CUT_EFFICIENTNET)


@pytest.fixture(scope="package")
def exported(model, processor, images, tmp_path_factory) -> Path:
    """As `training/export.py` leaves a folder, without its gate."""
    graphs = pytest.importorskip("training.edge.graphs", reason='pip install -e ".[edge]"')
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    (folder / "onnx").mkdir(parents=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for tower in ("vision", "text"):
        graphs.trace(model, tower, folder / "onnx" / f"{tower}_model.onnx")
    images[0].save(folder / "example.png")
    return folder


@pytest.fixture(scope="package")
def photos(images, tmp_path_factory) -> Path:
    """Images of various shapes: wide, high, large, small, transparent."""
    folder = tmp_path_factory.mktemp("photos")
    sizes = [(150, 100), (77, 131), (900, 640), (64, 64), (40, 50)]
    for number, size in enumerate(sizes):
        images[number].resize(size, Image.Resampling.LANCZOS).save(folder / f"{number}.png")
    transparent = images[1].convert("RGBA")
    transparent.putalpha(Image.new("L", transparent.size, 0))
    transparent.paste(images[1].crop((10, 10, 50, 50)), (10, 10))
    transparent.save(folder / "5.png")
    return folder


@pytest.fixture(scope="package")
def address(build, exported, tmp_path_factory):
    site = tmp_path_factory.mktemp("web") / "site"
    build(exported, site)
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}/"


@pytest.fixture
def visit(browser, address) -> Visit:
    """The page after its model is loaded."""
    visit = Visit(browser, address)
    visit.page.wait_for_selector("body[data-ready-ms]")
    yield visit
    assert not visit.errors
    assert not visit.foreign()
    visit.page.close()
