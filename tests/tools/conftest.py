"""One exported model folder, real images and texts in both languages, and their embeddings in transformers."""

import copy
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from tests.tiny import MAX_TEXT_LENGTH, WHOLE_EFFICIENTNET, make_model, recipe_fields, student_config
from training.config import DistillRecipe
from training.data import load_source, open_image
from training.edge.graphs import trace
from training.edge.ranking import same_top
from training.hub import save_model
from training.text.writing_systems import LANGUAGES


@dataclass(frozen=True)
class Expected:
    """Images and texts, and what transformers makes of them.

    Args:
        paths: Image files.
        texts: Texts by language: the names of the images.
        images: Image embeddings, (N, D), L2-normalised.
        embeddings: Text embeddings by language, (N, D), L2-normalised.
    """

    paths: list[str]
    texts: dict[str, list[str]]
    images: np.ndarray
    embeddings: dict[str, np.ndarray]

    def check(self, images: np.ndarray, texts: dict[str, np.ndarray]):
        """Compare the L2-normalised embeddings of a tool, and its rankings in both languages."""
        images = np.asarray(images, np.float32)
        assert (images * self.images).sum(1).min() > 0.999  # another library may round a pixel the other way
        for language in LANGUAGES:
            found = np.asarray(texts[language], np.float32)
            np.testing.assert_allclose(found, self.embeddings[language], atol=1e-5)
            scores = torch.from_numpy(found @ images.T)
            assert same_top(scores, torch.from_numpy(self.embeddings[language] @ self.images.T)) >= 0.99

    @property
    def pil_images(self) -> list[Image.Image]:
        """The images in memory."""
        return [Image.open(path).convert("RGB") for path in self.paths]


@pytest.fixture(scope="session")
def model_folder(processor: DCCLIPProcessor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder with fp32 graphs of both towers. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("tools") / "dcclip-tiny"
    recipe = DistillRecipe(**recipe_fields(folder, "some/images", teacher="some/teacher", student=student_config()))
    model = make_model(WHOLE_EFFICIENTNET, seed=3)
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.model_max_length = MAX_TEXT_LENGTH  # as training sets it; fastembed cuts texts there
    save_model(folder, model, DCCLIPProcessor(processor.image_processor, tokenizer), recipe)
    (folder / "onnx").mkdir()
    for tower in ("vision", "text"):
        trace(model, tower, folder / "onnx" / f"{tower}_model.onnx")
    return folder


@pytest.fixture(scope="session")
def expected(model_folder: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    home, model = tmp_path_factory.mktemp("images"), DCCLIPModel.from_pretrained(model_folder).eval()
    processor = DCCLIPProcessor.from_pretrained(model_folder)
    rows, paths, images = load_source(str(corpus / "train.parquet")).select(range(40)), [], []
    for number in range(len(rows)):
        cell = rows[number]["image"]
        file = io.BytesIO()
        cell.save(file, "PNG")
        image = open_image({"bytes": file.getvalue(), "path": None})
        images.append(image)
        paths.append(str(home / f"{number:02}.png"))
        image.save(paths[-1])
    texts = {language: list(rows[language]) for language in LANGUAGES}
    with torch.no_grad():
        outputs = {
            language: model(**processor(images=images, text=texts[language], return_tensors="pt"))
            for language in LANGUAGES
        }
    embeddings = {language: output.text_embeds.numpy() for language, output in outputs.items()}
    return Expected(paths, texts, outputs["en"].image_embeds.numpy(), embeddings)
