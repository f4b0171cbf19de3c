"""Export to LiteRT.

These tests need an environment with `pip install -e ".[test,litert]"`. Run them there with `pytest -m litert`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_dcclip import DCCLIPModel
from tests.tiny import CUT_EFFICIENTNET, SMALL_XLM_ROBERTA, make_model, recipe_fields, student_config
from training import export
from training.config import DistillRecipe
from training.edge import verdict
from training.edge.formats import FORMATS
from training.edge.litert import open_tower
from training.hub import save_model

pytest.importorskip("litert_torch", reason='pip install -e ".[litert]"')
pytestmark = [pytest.mark.litert, pytest.mark.slow]
# with ReLU6, and few layers, since conversion is slow
VISION = CUT_EFFICIENTNET | {"model_args": CUT_EFFICIENTNET["model_args"] | {"out_indices": [1]}}


@pytest.fixture(scope="module")
def exported(processor, corpus, tmp_path_factory) -> Path:
    """A student's folder with all files. Tests must not write to it."""
    folder = tmp_path_factory.mktemp("litert")
    recipe = DistillRecipe(**recipe_fields(folder, "some/images", teacher="some/teacher", student=student_config()))
    save_model(folder, make_model(VISION, SMALL_XLM_ROBERTA, seed=3), processor, recipe)
    data = ["--data", str(corpus / "unseen_style.parquet"), "--class_names", str(corpus / "class_names.json")]
    with pytest.MonkeyPatch.context() as patch:
        # towers this small and random are not faster in int8, and their accuracy is random
        patch.setattr(verdict, "TOLERANCE", {})
        patch.setattr(verdict, "ALLOWED_POINTS", dict.fromkeys(verdict.ALLOWED_POINTS, 100.0))
        export.main([str(folder), "--output_dir", str(folder), "--format", "litert", *data])
    return folder


@pytest.fixture(scope="module")
def student(exported) -> DCCLIPModel:
    return DCCLIPModel.from_pretrained(exported).eval()


def run(exported: Path, tower: str, variant: str, **arrays: torch.Tensor) -> np.ndarray:
    path = exported / "litert" / FORMATS["litert"].file_name(tower, variant)
    return open_tower(path, threads=1)({name: tensor.numpy() for name, tensor in arrays.items()})


@torch.no_grad()
def expected(student: DCCLIPModel, **arrays: torch.Tensor) -> np.ndarray:
    features = student.get_image_features if "pixel_values" in arrays else student.get_text_features
    return F.normalize(features(**arrays).pooler_output, dim=-1).numpy()


@pytest.mark.parametrize("length", [1, 9, 32])
def test_text_file_accepts_texts_of_any_length(exported, student, length):
    input_ids = torch.randint(5, 500, (3, length), generator=torch.Generator().manual_seed(length))
    attention_mask = torch.ones_like(input_ids)
    input_ids[1, length // 2 + 1 :], attention_mask[1, length // 2 + 1 :] = 1, 0
    arrays = {"input_ids": input_ids, "attention_mask": attention_mask}
    np.testing.assert_allclose(run(exported, "text", "fp32", **arrays), expected(student, **arrays), atol=1e-4)


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_ids_at_padding_do_not_change_embeddings(exported, variant):
    mask = torch.tensor([[1, 1, 1, 0, 0, 0]])
    found = [
        run(exported, "text", variant, input_ids=torch.tensor([[0, 7, 2, *padding]]), attention_mask=mask)
        for padding in ([1, 1, 1], [0, 9, 400])
    ]
    np.testing.assert_array_equal(*found)


def test_image_file_encodes_several_images(exported, student, inputs):
    arrays = {"pixel_values": inputs["pixel_values"]}
    np.testing.assert_allclose(run(exported, "vision", "fp32", **arrays), expected(student, **arrays), atol=1e-4)


@pytest.mark.parametrize(("tower", "names"), [("vision", ["pixel_values"]), ("text", ["input_ids", "attention_mask"])])
def test_int8_embeddings_are_close_and_normalised(exported, student, inputs, tower, names):
    arrays = {name: inputs[name] for name in names}
    embeddings = run(exported, tower, "int8", **arrays)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=2e-3)
    assert (embeddings * expected(student, **arrays)).sum(1).min() > 0.99
