"""Pages that are drawn: kinds in turn with their captions, the same bytes from the same seed, one design held out."""

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from training.experiments.photographs import pages

SENTENCES = {"en": ["Where is the receipt?", "Wait!"], "zh": ["收据在哪里？", "等一下！"]}


@pytest.fixture
def write(tmp_path):
    """Function that writes pages, and returns their rows."""
    if find_spec("mplfonts") is None:
        pytest.skip('pip install -e ".[photos]"')

    def write(num, held_out=False, seed=0):
        path = tmp_path / "pages.parquet"
        background = Image.new("RGB", (64, 48), (90, 120, 60))
        pages.write_pages(path, num, SENTENCES, [background], held_out=held_out, seed=seed)
        return pq.read_table(path).to_pylist()

    return write


@pytest.fixture
def designs(monkeypatch):
    """Numbers of the designs that are drawn."""
    drawn = set()
    page = pages._Page

    def make_page(rng, sentences, design, *more):
        drawn.add(design)
        return page(rng, sentences, design, *more)

    monkeypatch.setattr(pages, "_Page", make_page)
    return drawn


def test_the_last_design_is_held_out(write, designs):
    write(24)
    assert designs == {0, 1}
    designs.clear()
    write(8, held_out=True)
    assert designs == {2}


def test_kinds_take_turns(write):
    rows = write(24)
    for language, kinds in pages.KINDS.items():
        assert len(set(kinds)) == 8
        assert [row[language][0] for row in rows] == 3 * kinds


def test_pages_look_as_those_that_trained_the_shipped_model(write):
    """pages.png has a row for each eight pages, and of each page a tile of 24 pixels."""
    rows = [*write(16), *write(8, held_out=True)]
    with Image.open(Path(__file__).with_name("pages.png")) as image:
        expected = np.asarray(image, np.int16).reshape(3, 24, 8, 24, 3).swapaxes(1, 2)
    for row, tile in zip(rows, expected.reshape(24, 24, 24, 3), strict=True):
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            found = np.asarray(image.resize((24, 24), Image.Resampling.BOX), np.int16)
        assert np.abs(found - tile).max() <= 6, row["en"]


def test_a_seed_determines_the_pages(write):
    first = write(8)
    assert write(8) == first
    for row, other in zip(first, write(8, seed=1), strict=True):
        assert row["image"]["bytes"] != other["image"]["bytes"]
