"""LanceDB's open-clip function loads a converted folder. LanceDB searches its embeddings."""

import io

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.tools
lancedb = pytest.importorskip("lancedb", reason="python -m tests.tools")

from lancedb.embeddings import get_registry  # noqa: E402

from modeling_dcclip.integrations.open_clip import convert  # noqa: E402


def test_open_clip_function(model_folder, expected, tmp_path):
    name = f"local-dir:{convert(model_folder, tmp_path / 'open_clip')}"
    function = get_registry().get("open-clip").create(name=name, pretrained="")
    function._model.eval()  # LanceDB leaves it in training mode
    texts = {
        language: [function.compute_query_embeddings(name)[0] for name in names]
        for language, names in expected.texts.items()
    }
    expected.check(function.compute_source_embeddings([_png(path) for path in expected.paths]), texts)

    vectors = function.compute_source_embeddings([_png(path) for path in expected.paths])
    rows = [{"number": number, "vector": vector} for number, vector in enumerate(vectors)]
    table = lancedb.connect(tmp_path / "database").create_table("photos", rows)
    for language, names in expected.texts.items():
        (query,) = function.compute_query_embeddings(names[0])
        found = table.search(query).distance_type("cosine").limit(3).to_list()
        best = np.sort(expected.images @ expected.embeddings[language][0])[::-1][:3]
        np.testing.assert_allclose([1 - row["_distance"] for row in found], best, atol=1e-3)


def _png(path: str) -> bytes:
    file = io.BytesIO()
    Image.open(path).save(file, "PNG")
    return file.getvalue()
