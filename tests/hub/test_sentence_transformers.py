"""sentence-transformers loads a published folder as one encoder of images and texts in both languages."""

import pytest
import torch

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor

pytestmark = pytest.mark.slow

pytest.importorskip("sentence_transformers", minversion="6.0", reason="pip install sentence-transformers")

TEXTS = ["red apple", "红苹果", "a frog that sits on a leaf " * 20]


@pytest.fixture(scope="module")
def encoder(finished):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(finished), trust_remote_code=True, device="cpu")


def test_embeddings_equal_those_of_the_model(encoder, finished, images):
    model, processor = DCCLIPModel.from_pretrained(finished).eval(), DCCLIPProcessor.from_pretrained(finished)
    inputs = processor(images=images[0], text=TEXTS, truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    texts = torch.tensor(encoder.encode(TEXTS, normalize_embeddings=True))
    image = torch.tensor(encoder.encode([images[0]], normalize_embeddings=True))
    torch.testing.assert_close(texts, outputs.text_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(image, outputs.image_embeds, rtol=0, atol=1e-5)


def test_similarity_of_an_image_to_labels_in_both_languages(encoder, images):
    scores = encoder.similarity(encoder.encode([images[0]]), encoder.encode(TEXTS[:2]))
    assert scores.shape == (1, 2) and scores.abs().max() <= 1 + 1e-5


def test_truncated_embeddings_are_normalised_again(encoder, finished, images):
    from sentence_transformers import SentenceTransformer

    short = SentenceTransformer(str(finished), trust_remote_code=True, device="cpu", truncate_dim=6)
    for inputs in (TEXTS, [images[0]]):
        expected = torch.nn.functional.normalize(torch.tensor(encoder.encode(inputs))[:, :6], dim=-1)
        found = torch.tensor(short.encode(inputs, normalize_embeddings=True))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
