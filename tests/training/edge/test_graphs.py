"""ONNX graphs: equal to PyTorch for any batch, and their variants in fewer bits."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modeling_dcclip import DCCLIPModel
from tests.tiny import make_model
from training.edge.formats import FORMATS
from training.edge.graphs import open_tower, trace
from training.edge.programs import _Int8Table

pytestmark = pytest.mark.slow

ONNX = FORMATS["onnx"]


@pytest.fixture(scope="module")
def student(exported) -> DCCLIPModel:
    return DCCLIPModel.from_pretrained(exported).eval()


@pytest.mark.parametrize(("batch_size", "length"), [(1, 1), (5, 32)])
def test_text_graph_accepts_any_batch_size_and_length(student, exported, batch_size, length):
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
    embeddings = open_tower(exported / "onnx" / "text_model.onnx")(inputs)
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


def test_graphs_have_no_local_paths_and_store_weights_in_few_bits(exported):
    for path in (exported / "onnx").iterdir():
        assert b".py" not in path.read_bytes()
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
