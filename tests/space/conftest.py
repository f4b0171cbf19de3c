"""A tiny model in its folder, images to search, and the modules of the Space."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.browser import open_browser
from tests.tiny import CUT_EFFICIENTNET, ROOT, make_model

SPACE = ROOT / "model_cards" / "space"


@pytest.fixture(scope="package")
def model():
    return make_model(CUT_EFFICIENTNET)


@pytest.fixture(scope="package")
def model_folder(model, processor, images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "tiny"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    images[0].save(folder / "example.png")
    return folder


@pytest.fixture(scope="package")
def image_folder(images, texts, tmp_path_factory) -> Path:
    """Images with their captions as file names, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("images")
    for image, text in zip(images, texts, strict=True):
        image.save(folder / f"{text.replace('/', ' ')}.png")
    (folder / "broken.png").write_bytes(b"not an image")
    return folder


@pytest.fixture(scope="package")
def space() -> Iterator[ModuleType]:
    """`model_cards/space/images.py`, imported from the Space's own folder."""
    sys.path.insert(0, str(SPACE))
    yield importlib.import_module("images")
    sys.path.remove(str(SPACE))
    for name in ("app", "encoder", "images"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="package")
def app(space) -> ModuleType:
    pytest.importorskip("gradio", reason='pip install -e ".[space]"')
    return importlib.import_module("app")


@pytest.fixture(scope="package")
def browser():
    with open_browser() as browser:
        yield browser
