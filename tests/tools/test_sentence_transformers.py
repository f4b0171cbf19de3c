"""sentence-transformers and the tools that load models through it: Haystack and LlamaIndex."""

import numpy as np
import pytest

pytestmark = pytest.mark.tools
pytest.importorskip("sentence_transformers", minversion="6.0", reason="python -m tests.tools")

from sentence_transformers import SentenceTransformer  # noqa: E402


def test_sentence_transformers(model_folder, expected):
    encoder = SentenceTransformer(str(model_folder), trust_remote_code=True, device="cpu")
    texts = {name: encoder.encode(each, normalize_embeddings=True) for name, each in expected.texts.items()}
    expected.check(encoder.encode(expected.pil_images, normalize_embeddings=True), texts)


def test_truncated_embeddings_are_the_first_components(model_folder, expected):
    encoder = SentenceTransformer(str(model_folder), trust_remote_code=True, device="cpu", truncate_dim=8)
    found = encoder.encode(expected.texts["zh"], normalize_embeddings=True)
    first = expected.embeddings["zh"][:, :8]
    np.testing.assert_allclose(found, first / np.linalg.norm(first, axis=1, keepdims=True), atol=1e-5)


def test_haystack(model_folder, expected):
    pytest.importorskip("haystack_integrations.components.embedders.sentence_transformers")
    from haystack import Document
    from haystack_integrations.components.embedders.sentence_transformers import (
        SentenceTransformersDocumentImageEmbedder,
        SentenceTransformersTextEmbedder,
    )

    options = {
        "model": str(model_folder),
        "trust_remote_code": True,
        "normalize_embeddings": True,
        "progress_bar": False,
        "token": None,
    }
    images = SentenceTransformersDocumentImageEmbedder(**options)
    documents = images.run(documents=[Document(content="", meta={"file_path": path}) for path in expected.paths])
    texts = SentenceTransformersTextEmbedder(**options)
    found = {name: [texts.run(text=text)["embedding"] for text in each] for name, each in expected.texts.items()}
    expected.check([document.embedding for document in documents["documents"]], found)


def test_llama_index(model_folder, expected):
    pytest.importorskip("llama_index.embeddings.huggingface")
    from llama_index.core.indices import MultiModalVectorStoreIndex
    from llama_index.core.schema import ImageDocument
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    embedder = HuggingFaceEmbedding(str(model_folder), trust_remote_code=True, device="cpu")
    texts = {name: embedder.get_text_embedding_batch(each) for name, each in expected.texts.items()}
    expected.check(embedder.get_image_embedding_batch(expected.paths), texts)
    documents = [ImageDocument(image_path=path, metadata={"file": path}) for path in expected.paths]
    index = MultiModalVectorStoreIndex.from_documents(documents, embed_model=embedder, image_embed_model=embedder)
    retriever = index.as_retriever(image_similarity_top_k=3)
    for language, names in expected.texts.items():
        for name, embedding in list(zip(names, expected.embeddings[language], strict=True))[:3]:
            scores = [node.score for node in retriever.text_to_image_retrieve(name)]
            best = np.sort(expected.images @ embedding)[::-1][:3]
            np.testing.assert_allclose(sorted(scores, reverse=True), best, atol=1e-3)
