"""Pages that are drawn: kinds in turn with their captions, the same bytes from the same seed, a font held out."""

from importlib.util import find_spec

import pyarrow.parquet as pq
import pytest
from PIL import Image

from training.experiments.photographs import pages

SENTENCES = {"en": ["Where is the receipt?", "Wait!"], "zh": ["收据在哪里？", "等一下！"]}
KINDS = {
    "en": ["a screenshot of a chat", "a receipt", "a document", "a QR code"],
    "zh": ["聊天截图", "小票", "文件", "二维码"],
}


def test_kinds_take_turns_and_a_seed_determines_the_pages(tmp_path):
    if find_spec("mplfonts") is None:
        pytest.skip('pip install -e ".[photos]"')

    def write(held_out=False, seed=0):
        path = tmp_path / "pages.parquet"
        background = Image.new("RGB", (64, 48), (90, 120, 60))
        pages.write_pages(path, 8, SENTENCES, [background], held_out=held_out, seed=seed)
        return pq.read_table(path).to_pylist()

    first = write()
    for language, kinds in KINDS.items():
        assert [row[language][0] for row in first] == 2 * kinds
    assert write() == first
    for others in (write(seed=1), write(held_out=True)):
        for row, other in zip(first, others, strict=True):
            assert row["image"]["bytes"] != other["image"]["bytes"]
