"""A tiny model in its folder, images to search, and the modules of the Space."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.browser import open_browser
from tests.tiny import CUT_EFFICIENTNET, ROOT, make_model
from training.hub import complete_folder

SPACE = ROOT / "model_cards" / "space"


@pytest.fixture(scope="package")
def model():
    return make_model(CUT_EFFICIENTNET)


@pytest.fixture(scope="package")
def model_folder(model, processor, images, tmp_path_factory) -> Path:
    """As `training/export.py` leaves a folder, without its gate."""
    graphs = pytest.importorskip("training.edge.graphs", reason='pip install -e ".[edge]"')
    folder = tmp_path_factory.mktemp("space") / "tiny"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "onnx").mkdir()
    for tower in ("vision", "text"):
        graphs.trace(model, tower, folder / "onnx" / f"{tower}_model.onnx")
    complete_folder(folder)
    images[0].save(folder / "example.png")
    return folder


@pytest.fixture(scope="package")
def image_folder(images, texts, tmp_path_factory) -> Path:
    """Images with their captions as file names, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("images")
    for image, text in zip(images, texts, strict=True):
        image.save(folder / f"{text.replace('/', ' ')}.png")
    (folder / "broken.png").write_bytes(b"not an image")
    (folder / "CREDITS.txt").write_text("Emoji: nobody\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="package")
def space() -> Iterator[ModuleType]:
    """`model_cards/space/encoder.py`, imported from the Space's own folder."""
    path, modules = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(SPACE))
    yield importlib.import_module("encoder")
    sys.path[:] = path
    for name in {"app", "encoder", *(name for name in set(sys.modules) - modules if name.endswith("_dcclip"))}:
        if "." not in name:
            sys.modules.pop(name, None)


@pytest.fixture(scope="package")
def app(space) -> ModuleType:
    pytest.importorskip("gradio", reason='pip install -e ".[space]"')
    return importlib.import_module("app")


@pytest.fixture(scope="package")
def browser():
    with open_browser() as browser:
        yield browser
