import numpy as np
import onnx
import onnxruntime
import pytest

from modeling_dcclip import DCCLIPModel
from training.edge.formats import ONNX
from training.edge.variants import to_fp16

pytestmark = pytest.mark.slow

# int8: where an x86 CPU lacks VNNI, ONNX Runtime adds pairs of products in 16 bits, which overflow now and then
CLOSE = {"fp32": 0.99999, "fp16": 0.9999, "int8": 0.9, "q4": 0.8}
SUFFIXES = ("", "_fp16", "_quantized", "_q4")
KINDS = {16: {"FLOAT16"}, 8: {"INT8", "UINT8"}, 4: {"INT4", "UINT4", "UINT8"}}


def session(exported, tower, variant):
    return onnxruntime.InferenceSession(exported / "onnx" / ONNX.file_name(tower, variant))


def test_file_names_are_those_of_transformers_js(exported):
    names = {f"{tower}{suffix}.onnx" for tower in ("vision_model", "text_model", "model") for suffix in SUFFIXES}
    assert {path.name for path in (exported / "onnx").iterdir()} == names


@pytest.mark.parametrize("variant", CLOSE)
def test_embeddings_are_close_and_normalised(exported, inputs, variant):
    arrays = {name: values.numpy() for name, values in inputs.items()}
    for tower, names in (("vision", ["pixel_values"]), ("text", ["input_ids", "attention_mask"])):
        inputs_of_tower = {name: arrays[name] for name in names}
        full, small = (session(exported, tower, kind).run(None, inputs_of_tower)[0] for kind in ("fp32", variant))
        np.testing.assert_allclose(np.linalg.norm(small, axis=1), 1, atol=1e-4)
        assert (full * small).sum(1).min() > CLOSE[variant]


@pytest.mark.parametrize(("variant", "bits"), [("fp16", 16), ("int8", 8), ("q4", 4)])
def test_the_token_table_is_stored_in_few_bits(exported, variant, bits):
    model = onnx.load(exported / "onnx" / ONNX.file_name("text", variant))
    tables = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) >= 600 * 16]  # 600 tokens
    assert tables
    assert {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in tables} <= KINDS[bits]


@pytest.mark.parametrize("variant", ["fp16", "int8"])
def test_convolutions_are_stored_in_few_bits(exported, variant):
    full, small = ((exported / "onnx" / ONNX.file_name("vision", kind)).stat().st_size for kind in ("fp32", variant))
    assert small / full < {"fp16": 0.6, "int8": 0.45}[variant]


def test_the_projection_of_the_image_tower_has_int8_weights_and_fp32_products(exported):
    graph = onnx.load(exported / "onnx" / ONNX.file_name("vision", "int8")).graph
    kinds = {tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    product = [node for node in graph.node if node.op_type in ("Gemm", "MatMul")][-1]
    inputs = [makers[name] for name in product.input[:2]]
    assert inputs[0].op_type != "DequantizeLinear" and inputs[1].op_type == "DequantizeLinear"
    weight = next(tensor for tensor in graph.initializer if tensor.name == inputs[1].input[0])
    expected = DCCLIPModel.from_pretrained(exported).visual_projection.weight.detach().numpy()
    assert kinds[weight.name] == "INT8" and kinds[inputs[1].input[1]] == "FLOAT"
    scale = np.abs(expected).max(1, keepdims=True) / 127  # of each output channel
    np.testing.assert_allclose(onnx.numpy_helper.to_array(weight) * scale, expected, atol=scale.max() / 2 + 1e-6)


def test_channels_below_half_precision_stay_in_fp32(exported, tmp_path):
    full = exported / "onnx" / ONNX.file_name("vision", "fp32")
    model = onnx.load(full)
    depthwise = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4 and tensor.dims[1] == 1)
    weights = onnx.numpy_helper.to_array(depthwise).copy()
    weights[0] *= 1e-6
    depthwise.CopyFrom(onnx.numpy_helper.from_array(weights, depthwise.name))
    onnx.save(model, tmp_path / "small_channel.onnx")
    kinds = []
    for source in (full, tmp_path / "small_channel.onnx"):
        to_fp16(source, tmp_path / "half.onnx")
        stored = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "half.onnx").graph.initializer}
        kinds.append(stored.get(depthwise.name, stored.get(f"{depthwise.name}_fp16")))
    assert kinds == [onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT]
