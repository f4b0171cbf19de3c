"""Daft runs the embedder of an index, and loads a folder through transformers."""

import numpy as np
import pytest
from PIL import Image

from modeling_dcclip.search.index import Index
from tests.modeling.color_model import DIMENSION, save_color_model
from tests.tools.manual import block_under

pytestmark = pytest.mark.tools
daft = pytest.importorskip("daft", reason="python -m tests.tools")


def test_the_manual_embeds_photographs_into_an_index(tmp_path, monkeypatch):
    model = save_color_model(tmp_path / "model")
    (tmp_path / "Photos" / "2024").mkdir(parents=True)
    for name in ("red", "green", "blue"):
        Image.new("RGB", (16, 16), name).save(tmp_path / "Photos" / "2024" / f"{name}.jpg")
    (tmp_path / "Photos" / "damaged.jpg").write_bytes(b"no")
    monkeypatch.chdir(tmp_path)
    code = block_under("Daft").replace('"MODEL", 512', f"{str(model)!r}, {DIMENSION}")
    exec(code.replace("/data/photos", str(tmp_path / "Photos")), {})
    with Index.open("photos.index") as index:
        assert len(index) == 3
        assert [path.rpartition("/")[2] for path, _ in index.catalog.failures()] == ["damaged.jpg"]
        for text, name in (("red", "red"), ("绿", "green"), ("blue", "blue")):
            assert index.search(text, top=1)[0].path.endswith(f"/Photos/2024/{name}.jpg")


def test_embed_image(model_folder, expected):
    # its embeddings are not normalised
    from daft.functions import decode_image, embed_image

    files = [open(path, "rb").read() for path in expected.paths]  # noqa: SIM115
    frame = daft.from_pydict({"file": files})
    column = embed_image(decode_image(daft.col("file"), mode="RGB"), provider="transformers", model=str(model_folder))
    found = np.array(frame.select(column.alias("embedding")).to_pydict()["embedding"])
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    expected.check(found, expected.embeddings)
