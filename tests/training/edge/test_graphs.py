"""ONNX graphs: equal to PyTorch for any batch, and their variants in fewer bits."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modeling_dcclip import DCCLIPModel
from tests.tiny import make_model
from training.edge.formats import FORMATS
from training.edge.graphs import open_session, trace
from training.edge.programs import _Int8Table

pytestmark = pytest.mark.slow

ONNX = FORMATS["onnx"]


@pytest.fixture(scope="module")
def student(exported) -> DCCLIPModel:
    return DCCLIPModel.from_pretrained(exported).eval()


@pytest.fixture(scope="module")
def sessions(exported) -> dict[str, onnxruntime.InferenceSession]:
    return {
        name: onnxruntime.InferenceSession(exported / "onnx" / f"{name}.onnx")
        for name in ("vision_model", "text_model")
    }


@pytest.mark.parametrize(("batch_size", "length"), [(1, 1), (5, 32)])
def test_text_graph_accepts_any_batch_size_and_length(student, sessions, batch_size, length):
    generator = torch.Generator().manual_seed(length)
    input_ids = torch.randint(5, 500, (batch_size, length), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    if batch_size > 1:
        input_ids[1, length // 2 :], attention_mask[1, length // 2 :] = 1, 0
    with torch.no_grad():
        expected = F.normalize(
            student.get_text_features(input_ids, attention_mask).pooler_output, dim=-1
        )
    inputs = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
    (embeddings,) = sessions["text_model"].run(["text_embeds"], inputs)
    np.testing.assert_allclose(embeddings, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_image_graph_accepts_any_batch_size(student, sessions, inputs, batch_size):
    pixel_values = inputs["pixel_values"][:batch_size]
    with torch.no_grad():
        expected = F.normalize(student.get_image_features(pixel_values).pooler_output, dim=-1)
    (embeddings,) = sessions["vision_model"].run(
        ["image_embeds"], {"pixel_values": pixel_values.numpy()}
    )
    np.testing.assert_allclose(embeddings, expected.numpy(), atol=1e-5)


def test_tower_that_cannot_be_traced_is_named(student, tmp_path, monkeypatch):
    model = make_model()
    forward = model.vision_model.forward

    def data_dependent(pixel_values, **kwargs):
        return forward(pixel_values=pixel_values * (1 if pixel_values.sum() > 0 else 2), **kwargs)

    monkeypatch.setattr(model.vision_model, "forward", data_dependent)
    with pytest.raises(ValueError, match=r"vision tower 'vit' cannot be traced.*--towers text"):
        trace(model, "vision", tmp_path / "vision_model.onnx")
    assert not list(tmp_path.iterdir())


def test_graphs_have_no_local_paths(exported):
    for path in (exported / "onnx").iterdir():
        assert b".py" not in path.read_bytes()


def test_weights_are_stored_in_few_bits(exported):
    model = onnx.load(exported / "onnx" / ONNX.file_name("text", "int8"))
    # the tables of 600 tokens
    tables = [each for each in model.graph.initializer if np.prod(each.dims) >= 600 * 16]
    assert tables
    kinds = {onnx.TensorProto.DataType.Name(each.data_type) for each in tables}
    assert kinds <= {"INT8", "UINT8"}
    full, small = (
        (exported / "onnx" / ONNX.file_name("vision", kind)).stat().st_size
        for kind in ("fp32", "int8")
    )
    assert small / full < 0.55


def test_external_data_outside_the_folder_of_a_graph_is_refused(exported, tmp_path):
    """By ONNX Runtime, from the lowest version in setup.cfg on."""
    path = tmp_path / "folder" / "text_model.onnx"
    path.parent.mkdir()
    model = onnx.load(exported / "onnx" / "text_model.onnx")
    onnx.save(model, path, save_as_external_data=True, location="weights.bin")
    open_session(path)
    (path.parent / "weights.bin").rename(tmp_path / "weights.bin")
    model = onnx.load(path, load_external_data=False)
    for entry in (each for tensor in model.graph.initializer for each in tensor.external_data):
        entry.value = "../weights.bin" if entry.key == "location" else entry.value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"text_model\.onnx: "):
        open_session(path)


@torch.no_grad()
def test_a_table_in_int8_has_the_rows_of_the_table_and_zeros_for_padding():
    table = nn.Embedding(50, 8, padding_idx=0)
    table.weight *= torch.logspace(-3, 3, 50)[:, None]
    small = _Int8Table(table)
    ids = torch.tensor([[0, 3, 49]])
    largest = table.weight.abs().amax(1)[ids][..., None]
    error = (small(ids) - table(ids)).abs() / largest.clamp(min=1e-9)
    assert error.max() <= 0.5 / 127 + 1e-6
    assert small.rows.dtype == torch.int8 and not small(ids)[0, 0].any()
