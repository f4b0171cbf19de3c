"""fastembed encodes both towers of a folder, and Qdrant in embedded mode ranks with them."""

import json
import shutil

import numpy as np
import pytest

pytestmark = pytest.mark.tools
pytest.importorskip("fastembed", reason="python -m tests.tools")
pytest.importorskip("qdrant_client", reason="python -m tests.tools")

from fastembed import ImageEmbedding, TextEmbedding  # noqa: E402
from qdrant_client import QdrantClient, models  # noqa: E402

from modeling_dcclip.integrations.fastembed import register  # noqa: E402


@pytest.fixture(scope="module")
def embedders(model_folder) -> tuple[TextEmbedding, ImageEmbedding]:
    text, image = register(model_folder)
    folder = str(model_folder)
    return TextEmbedding(text, specific_model_path=folder), ImageEmbedding(image, specific_model_path=folder)


def test_embeddings_and_rankings_equal_those_of_transformers(embedders, expected):
    text, image = embedders
    texts = {language: np.stack(list(text.embed(names))) for language, names in expected.texts.items()}
    expected.check(np.stack(list(image.embed(expected.paths))), texts)


def test_qdrant_finds_the_same_images(embedders, model_folder, expected):
    client, names = QdrantClient(":memory:"), register(model_folder)
    options = {"specific_model_path": str(model_folder)}
    size = expected.images.shape[1]
    client.create_collection("photos", models.VectorParams(size=size, distance=models.Distance.COSINE))
    vectors = [models.Image(image=path, model=names[1], options=options) for path in expected.paths]
    points = [models.PointStruct(id=number, vector=vector) for number, vector in enumerate(vectors)]
    client.upsert("photos", points)
    for language, texts in expected.texts.items():
        for text, embedding in list(zip(texts, expected.embeddings[language], strict=True))[:5]:
            query = models.Document(text=text, model=names[0], options=options)
            found = client.query_points("photos", query=query, limit=3).points
            best = np.sort(expected.images @ embedding)[::-1][:3]
            np.testing.assert_allclose([point.score for point in found], best, atol=1e-3)


def test_two_folders_of_one_name_have_names_of_their_own(tmp_path, model_folder):
    one, two = (shutil.copytree(model_folder, tmp_path / parent / "twin") for parent in "ab")
    config = json.loads((two / "config.json").read_text(encoding="utf-8"))
    (two / "config.json").write_text(json.dumps(config | {"truncate_dim": 8}), encoding="utf-8")
    names = register(one)
    assert register(one) == names
    with pytest.raises(ValueError, match=r"a different model named 'dcclip/twin-text': .*from .*/a/twin"):
        register(two)
    others = register(two, name="two")
    assert others == ("dcclip/two-text", "dcclip/two-image")
    sizes = [TextEmbedding.get_embedding_size(names[0]), ImageEmbedding.get_embedding_size(names[1])]
    assert sizes == [config["projection_dim"]] * 2
    assert [TextEmbedding.get_embedding_size(others[0]), ImageEmbedding.get_embedding_size(others[1])] == [8, 8]


def test_a_folder_without_graphs_is_refused(tmp_path, model_folder):
    (tmp_path / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"has no onnx/text_model\.onnx. Export the model first"):
        register(tmp_path)
