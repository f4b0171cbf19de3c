"""A model that knows colors, and photographs of plain colors for it to find."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from modeling_dcclip.search import command
from modeling_dcclip.search.index import Index
from modeling_dcclip.search.index import index as index_module
from modeling_dcclip.search.serve.page_server import SearchServer
from tests.local_server import client_of

RGB = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "white": (255,) * 3,
}


def names(hits):
    """Names of the files that were found."""
    return [os.path.basename(hit.path) for hit in hits]


def film(path, *colors, half=False, live=False):
    """A video that shows each color for ten seconds; with `half`, the right half is black.

    With `live`, it is a WebM that does not state its length, as of a recorder that only appends.
    """
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"options": {"live": "1"}, "format": "webm"} if live else {}
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream("libvpx" if path.suffix == ".webm" else "mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.gop_size = 10  # a key frame at the start of each color
        for color in colors:
            pixels = np.full((48, 64, 3), RGB[color], np.uint8)
            if half:
                pixels[:, 32:] = 0
            for _ in range(10):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    return path


@pytest.fixture(autouse=True)
def english(monkeypatch):
    """Messages in English, whatever the locale."""
    monkeypatch.setenv("LANGUAGE", "en")


@pytest.fixture(autouse=True, scope="session")
def preview_cache(tmp_path_factory):
    """Previews stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def paint():
    """Write an image of one color. The width makes its content another one."""

    def write(path, color, width=24, **save):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, 16), RGB[color]).save(path, **save)
        return path

    return write


@pytest.fixture
def photos(tmp_path, paint):
    """A folder with one image of each color, in three formats and two levels."""
    folder = tmp_path / "photos"
    for path, color in {
        "red.jpg": "red",
        "green.png": "green",
        "a/blue.jpg": "blue",
        "a/b/yellow.webp": "yellow",
        "white.png": "white",
    }.items():
        paint(folder / path, color)
    return folder


@pytest.fixture
def run(capfdbinary):
    """Run a command, and return what it printed; a failure is its message of one line."""

    def call(*arguments):
        try:
            command.main([*map(str, arguments)])
        except SystemExit as stopped:
            assert stopped.code == 2
            printed, error = capfdbinary.readouterr()
            assert not printed
            assert error.startswith(b"dcclip: ")
            assert error.count(b"\n") == 1
            return error.decode()
        sys.stdout.flush()
        return os.fsdecode(capfdbinary.readouterr().out)

    return call


@pytest.fixture
def index(tmp_path, color_model):
    """An empty index."""
    with Index.open(tmp_path / "index", color_model, create=True) as index:
        yield index


@pytest.fixture
def filled(index, photos):
    """An index of the photographs."""
    index.add(photos)
    return index


@pytest.fixture
def calibrated(color_model, photos, tmp_path, monkeypatch):
    """An index of a model that is calibrated on colors."""
    monkeypatch.setattr(index_module, "NOUNS", ["red", "green", "blue", "white"])
    model = shutil.copytree(color_model, tmp_path / "calibrated")
    config = json.loads((model / "config.json").read_text()) | {"fit": [4, -1, -4, 0, 0, 3]}
    (model / "config.json").write_text(json.dumps(config))
    with Index.open(tmp_path / "index", model, create=True) as index:
        index.add(photos)
        yield index


@pytest.fixture
def server(filled):
    """A server of the page that is not listening, for `client`."""
    with SearchServer(filled, port=0) as server:
        yield server


@pytest.fixture
def client(server):
    """Client of the page that has its token."""
    with client_of(server) as client:
        yield client
