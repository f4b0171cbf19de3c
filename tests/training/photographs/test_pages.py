"""Pages that are drawn: kinds in turn with their captions, the same bytes from the same seed, one design held out."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from training.photographs import pages

SENTENCES = {"en": ["Where is the receipt?", "Wait!"], "zh": ["收据在哪里？", "等一下！"]}


@pytest.fixture
def write(tmp_path, monkeypatch):
    pytest.importorskip("segno", reason='pip install -e ".[photos]"')
    designs = []
    page = pages._Page

    def make_page(rng, sentences, design, *more):
        designs.append(design)
        return page(rng, sentences, design, *more)

    monkeypatch.setattr(pages, "_Page", make_page)

    def write(num, held_out, seed=0):
        designs.clear()
        background = Image.new("RGB", (64, 48), (90, 120, 60))
        pages.write_pages(
            tmp_path / "pages.parquet", num, SENTENCES, [background], held_out=held_out, seed=seed
        )
        return pq.read_table(tmp_path / "pages.parquet").to_pylist(), set(designs)

    return write


def test_kinds_take_turns_and_the_last_design_is_held_out(write):
    rows, designs = write(24, held_out=False)
    assert designs == {0, 1}
    assert write(8, held_out=True)[1] == {2}
    for language, kinds in pages.KINDS.items():
        assert [row[language][0] for row in rows] == 3 * kinds
        assert len(set(kinds)) == 8
    code = next(row for row in rows if row["en"][0] == "a QR code")
    with Image.open(io.BytesIO(code["image"]["bytes"])) as image:
        levels = np.asarray(image.convert("L"))
    assert (levels < 64).mean() > 0.05
    assert (levels > 192).mean() > 0.05


def test_a_seed_determines_the_pages(write):
    first, again, other = (write(8, held_out=False, seed=seed)[0] for seed in (0, 0, 1))
    assert first == again
    assert all(
        a["image"]["bytes"] != b["image"]["bytes"] for a, b in zip(first, other, strict=True)
    )
