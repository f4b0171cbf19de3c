"""Other search engines run the code of the manual on an index, and find what its exact scan finds."""

import re

import numpy as np
import pytest
from PIL import Image

from modeling_dcclip.search.index import Index
from tests.modeling.color_model import save_color_model
from tests.tiny import ROOT

pytestmark = pytest.mark.tools

MANUAL = (ROOT / "training" / "search" / "README.md").read_text(encoding="utf-8")
ENGINES = {
    "FAISS": "faiss",
    "Qdrant": "qdrant_client",
}
INT8_ERROR = 0.02  # of a cosine


def block_under(heading: str) -> str:
    """The first Python block under a heading of the manual."""
    found = re.search(rf"^##+ {heading}\n.*?^```py\n(.*?)^```", MANUAL, re.S | re.M)
    assert found is not None, heading
    return found[1]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with an index of forty images of different colours."""
    folder, rng = tmp_path_factory.mktemp("engines"), np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number in range(40):
        pixels = np.repeat(np.repeat(rng.integers(0, 256, (2, 2, 3), np.uint8), 8, 0), 8, 1)
        Image.fromarray(pixels).save(folder / "photos" / f"{number:02}.png")
    with Index.open(folder / "photos.index", save_color_model(folder / "model"), create=True) as index:
        index.add(folder / "photos")
    return folder


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_find_what_the_index_finds(engine, photos, monkeypatch):
    pytest.importorskip(ENGINES[engine], reason="python -m tests.tools")
    monkeypatch.chdir(photos)
    names: dict = {}
    exec(block_under("Other search engines").replace("海边的日落", "红"), names)
    exec(block_under(engine), names)
    with Index.open("photos.index") as index:
        scores = {hit.path: hit.score for hit in index.search("红", top=40)}
    assert len(set(names["found"])) == 5
    best = list(scores.values())[:5]
    assert [scores[path] for path in names["found"]] == pytest.approx(best, abs=INT8_ERROR)


def test_every_engine_of_the_manual_is_tested():
    section = MANUAL.partition("## Other search engines")[2].partition("\n## ")[0]
    assert re.findall(r"^### (.*)$", section, re.M) == list(ENGINES)
