"""One exported model folder in other tools gives the embeddings of transformers.

The tools are not among the extras:

    pip install -e ".[test]" sentence-transformers lancedb
    python -m pytest -m stress tests/stress/test_tools.py
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from modeling_dcclip.integrations.open_clip import convert
from tests.tiny import MAX_TEXT_LENGTH, WHOLE_EFFICIENTNET, make_model, save_student
from training.data import load_source
from training.edge.graphs import trace
from training.text.writing_systems import LANGUAGES

pytestmark = pytest.mark.stress


@dataclass(frozen=True)
class Expected:
    """Images, their names by language, and their normalized embeddings in transformers."""

    paths: list[str]
    texts: dict[str, list[str]]
    images: np.ndarray
    embeddings: dict[str, np.ndarray]

    def check(self, images: np.ndarray, texts: dict[str, np.ndarray]):
        cosines = (np.asarray(images, np.float32) * self.images).sum(1)
        assert cosines.min() > 0.999  # another library may round a pixel the other way
        for language in LANGUAGES:
            np.testing.assert_allclose(texts[language], self.embeddings[language], atol=1e-5)


@pytest.fixture(scope="module")
def model_folder(processor: DCCLIPProcessor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder with fp32 graphs of both towers. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("tools") / "dcclip-tiny"
    model, tokenizer = make_model(WHOLE_EFFICIENTNET, seed=3), copy.deepcopy(processor.tokenizer)
    tokenizer.model_max_length = MAX_TEXT_LENGTH  # as training sets it
    save_student(folder, model, DCCLIPProcessor(processor.image_processor, tokenizer))
    (folder / "onnx").mkdir()
    for tower in ("vision", "text"):
        trace(model, tower, folder / "onnx" / f"{tower}_model.onnx")
    return folder


@pytest.fixture(scope="module")
def expected(
    model_folder: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Expected:
    home, model = (
        tmp_path_factory.mktemp("images"),
        DCCLIPModel.from_pretrained(model_folder).eval(),
    )
    processor = DCCLIPProcessor.from_pretrained(model_folder)
    rows = load_source(str(corpus / "train.parquet")).select(range(40))
    images, paths = [image.convert("RGB") for image in rows["image"]], []
    for number, image in enumerate(images):
        paths.append(str(home / f"{number:02}.png"))
        image.save(paths[-1])
    texts = {language: list(rows[language]) for language in LANGUAGES}
    with torch.no_grad():
        outputs = {
            name: model(**processor(images=images, text=each, return_tensors="pt"))
            for name, each in texts.items()
        }
    embeddings = {language: output.text_embeds.numpy() for language, output in outputs.items()}
    return Expected(paths, texts, outputs["en"].image_embeds.numpy(), embeddings)


def test_sentence_transformers(model_folder, expected):
    tools = pytest.importorskip("sentence_transformers")
    encoder = tools.SentenceTransformer(str(model_folder), trust_remote_code=True, device="cpu")
    texts = {
        name: encoder.encode(each, normalize_embeddings=True)
        for name, each in expected.texts.items()
    }
    images = [Image.open(path) for path in expected.paths]
    expected.check(encoder.encode(images, normalize_embeddings=True), texts)
    short = tools.SentenceTransformer(
        str(model_folder), trust_remote_code=True, device="cpu", truncate_dim=8
    )
    first = expected.embeddings["zh"][:, :8]
    found = short.encode(expected.texts["zh"], normalize_embeddings=True)
    np.testing.assert_allclose(
        found, first / np.linalg.norm(first, axis=1, keepdims=True), atol=1e-5
    )


def test_lancedb_loads_the_open_clip_folder(model_folder, expected, tmp_path):
    lancedb = pytest.importorskip("lancedb")
    name = f"local-dir:{convert(model_folder, tmp_path / 'open_clip')}"
    function = lancedb.embeddings.get_registry().get("open-clip").create(name=name, pretrained="")
    function._model.eval()  # LanceDB leaves it in training mode
    texts = {
        language: np.stack([function.compute_query_embeddings(name)[0] for name in names])
        for language, names in expected.texts.items()
    }
    vectors = function.compute_source_embeddings(
        [Path(path).read_bytes() for path in expected.paths]
    )
    expected.check(np.stack(vectors), texts)
