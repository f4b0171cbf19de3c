"""A model that knows colours in its folder, images to search, and the modules of the Space."""

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from tests.browser import open_browser
from tests.modeling.color_model import save_color_model
from tests.tiny import ROOT

SPACE = ROOT / "model_cards" / "space"


@pytest.fixture(scope="package")
def model_folder(tmp_path_factory) -> Path:
    """As `training/export.py` leaves a folder, in what the Space needs."""
    folder = save_color_model(tmp_path_factory.mktemp("space") / "colors")
    for name in ("runtime_dcclip.py", "image_dcclip.py"):
        shutil.copy(ROOT / "modeling_dcclip" / name, folder)
    Image.new("RGB", (64, 64), "white").save(folder / "example.png")
    return folder


@pytest.fixture(scope="package")
def image_folder(tmp_path_factory) -> Path:
    """Images with their colours as file names, and files that are not images."""
    folder = tmp_path_factory.mktemp("images")
    for name, color in {"red": "red", "绿": "lime", "blue": "blue", ".hidden": "red"}.items():
        Image.new("RGB", (60, 40), color).save(folder / f"{name}.png", comment="secret")
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
