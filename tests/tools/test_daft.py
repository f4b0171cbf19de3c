"""Daft loads a folder through transformers."""

import numpy as np
import pytest

pytestmark = pytest.mark.tools
daft = pytest.importorskip("daft", reason="python -m tests.tools")


def test_embed_image(model_folder, expected):
    # its embeddings are not normalised
    from daft.functions import decode_image, embed_image

    files = [open(path, "rb").read() for path in expected.paths]  # noqa: SIM115
    frame = daft.from_pydict({"file": files})
    column = embed_image(decode_image(daft.col("file"), mode="RGB"), provider="transformers", model=str(model_folder))
    found = np.array(frame.select(column.alias("embedding")).to_pydict()["embedding"])
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    expected.check(found, expected.embeddings)
