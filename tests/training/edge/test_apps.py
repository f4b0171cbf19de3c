"""Export to ExecuTorch, for apps: `pip install -e ".[test,mobile]"` and `pytest -m executorch`."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from modeling_dcclip import DCCLIPModel
from tests.tiny import CUT_EFFICIENTNET, SMALL_XLM_ROBERTA, make_model, save_student
from training import export
from training.edge import programs, verdict
from training.edge.formats import FORMATS
from training.edge.programs import MAX_BATCH
from training.edge.towers import INPUTS, STEM

pytest.importorskip("executorch")
pytestmark = [pytest.mark.slow, pytest.mark.executorch]
# with ReLU6, and few layers, since lowering is slow
VISION = CUT_EFFICIENTNET | {"model_args": CUT_EFFICIENTNET["model_args"] | {"out_indices": [1]}}


@pytest.fixture(scope="module")
def exported(processor, labeled, tmp_path_factory) -> Path:
    """A student's folder with an ONNX file and all files of the format. Tests must not write to it."""
    folder = tmp_path_factory.mktemp("executorch")
    save_student(folder, make_model(VISION, SMALL_XLM_ROBERTA, seed=3), processor)
    with pytest.MonkeyPatch.context() as patch:
        # towers this small and random are not faster in int8, and their accuracy is random
        patch.setattr(verdict, "TOLERANCE", {})
        patch.setattr(verdict, "ALLOWED_POINTS", dict.fromkeys(verdict.ALLOWED_POINTS, 100.0))
        arguments = [str(folder), "--output_dir", str(folder), *labeled]
        export.main([*arguments, "--towers", "text", "--variants", "fp32"])
        export.main([*arguments, "--format", "executorch"])
    return folder


@pytest.fixture(scope="module")
def student(exported) -> DCCLIPModel:
    return DCCLIPModel.from_pretrained(exported).eval()


@pytest.fixture(scope="module")
def run(exported):
    """Encode with the file of a tower."""

    def run(tower: str, variant: str, **arrays: torch.Tensor) -> np.ndarray:
        path = exported / "executorch" / FORMATS["executorch"].file_name(tower, variant)
        runner = FORMATS["executorch"].functions.open_tower(path, threads=1)
        return runner({key: tensor.numpy() for key, tensor in arrays.items()})

    return run


@torch.no_grad()
def expected(student: DCCLIPModel, **arrays: torch.Tensor) -> np.ndarray:
    features = student.get_image_features if "pixel_values" in arrays else student.get_text_features
    return F.normalize(features(**arrays).pooler_output, dim=-1).numpy()


@pytest.mark.parametrize(("batch_size", "length"), [(1, 1), (MAX_BATCH + 1, 32)])
def test_texts_of_any_number_and_length(run, student, batch_size, length):
    generator = torch.Generator().manual_seed(length)
    input_ids = torch.randint(5, 500, (batch_size, length), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    if batch_size > 1:
        input_ids[1, length // 2 + 1 :], attention_mask[1, length // 2 + 1 :] = 1, 0
    arrays = {"input_ids": input_ids, "attention_mask": attention_mask}
    found = run("text", "fp32", **arrays)
    np.testing.assert_allclose(found, expected(student, **arrays), atol=1e-4)


def test_images_of_any_number_and_int8_embeddings(run, student, inputs):
    pixels = inputs["pixel_values"].repeat(2, 1, 1, 1)
    for count in (1, MAX_BATCH + 1):
        found = run("vision", "fp32", pixel_values=pixels[:count])
        np.testing.assert_allclose(found, expected(student, pixel_values=pixels[:count]), atol=1e-4)
    for tower, names in INPUTS.items():
        arrays = {key: inputs[key] for key in names}
        embeddings = run(tower, "int8", **arrays)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=2e-3)
        assert (embeddings * expected(student, **arrays)).sum(1).min() > 0.99


def test_int8_ranges_are_measured_after_the_clamp():
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 3, 1) for _ in range(STEM + 1)]
    convolutions[-1].bias.data = torch.tensor(
        [-1000.0, 3.0, 3.0]
    )  # the first channel is always 0 after the clamp
    module = nn.Sequential(*convolutions, nn.ReLU6()).eval()
    images = torch.randn(2, 3, 8, 8)
    quantized = programs.to_int8(
        module, "vision", (images,), ({0: Dim("batch_size")},), [images.numpy()]
    )
    with torch.no_grad():
        torch.testing.assert_close(quantized(images), module(images), atol=6 / 127, rtol=0)
