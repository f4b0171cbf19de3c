"""Variants of a graph in number formats with fewer bytes."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from training.edge.towers import STEM
from training.utils.quiet import quiet_export

BLOCK = 32
# largest relative error of an output channel in half precision: twice its rounding. Depthwise convolutions with folded
# batch norms have channels so small that half precision represents them with few bits
MAX_HALF_ERROR = 2.0**-10
# largest number of input channels of a filter that counts as depthwise
MAX_DEPTHWISE_CHANNELS = 4


def make_variant(source: Path, tower: str, variant: str, path: Path, images: Iterable[np.ndarray]):
    """Write a variant of a traced tower.

    Args:
        source: Path of the fp32 graph.
        tower: The tower: `vision` or `text`.
        variant: Number format: `fp16`, `int8` or `q4`.
        path: Path of the graph to write.
        images: Prepared calibration images, (1, 3, S, S) float32 each, for the int8 ranges of the image tower.
    """
    with quiet_export():
        if variant == "fp16":
            to_fp16(source, path)
        elif variant == "q4":
            to_q4(source, path)
        elif tower == "text":
            to_dynamic_int8(source, path)
        else:
            to_static_int8(source, path, images)
    model = onnx.load(path)
    helper.set_model_props(model, {entry.key: entry.value for entry in onnx.load(source).metadata_props})
    onnx.save(model, path)


def to_fp16(source: Path, path: Path):
    """Store weights in half precision and compute in single precision: half the bytes at the latency of fp32.

    CPUs have no half-precision kernels for most operators, and casts of activations would make the graph slower. Here
    only constants are cast, which a session folds once when it loads.

    Args:
        source: Path of the fp32 graph.
        path: Path of the graph to write.
    """
    model = onnx.load(source)
    graph, casts = model.graph, []
    for tensor in [tensor for tensor in graph.initializer if _is_large_float(tensor)]:
        single = numpy_helper.to_array(tensor)
        half, name = single.astype(np.float16), tensor.name
        if (
            single.ndim == 4
            and single.shape[1] <= MAX_DEPTHWISE_CHANNELS
            and _largest_error(single, half) > MAX_HALF_ERROR
        ):
            continue  # few bytes, and the error of a single channel matters
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_fp16"))
        gathers = [node for node in graph.node if node.op_type == "Gather" and node.input[0] == name]
        users = [node for node in graph.node if name in node.input]
        if len(gathers) == len(users):  # an embedding table: only the rows that are looked up are cast
            for node in gathers:
                node.input[0], rows = f"{name}_fp16", node.output[0]
                node.output[0] = f"{rows}_fp16"
                position = list(graph.node).index(node)
                graph.node.insert(position + 1, _to_float(f"{rows}_fp16", rows))
        else:
            casts.append(_to_float(f"{name}_fp16", name))
    for cast in reversed(casts):
        graph.node.insert(0, cast)
    _save_without_shapes(model, path)


def _is_large_float(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and int(np.prod(tensor.dims)) >= BLOCK


def _largest_error(single: np.ndarray, half: np.ndarray) -> float:
    """The largest relative error of a convolution's output channel."""
    error, norm = (np.linalg.norm(array.reshape(len(array), -1), axis=1) for array in (half - single, single))
    return float((error / np.maximum(norm, np.finfo(np.float32).tiny)).max())


def _to_float(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], f"{target}_cast", to=TensorProto.FLOAT)


def to_dynamic_int8(source: Path, path: Path):
    """Store weights, including the token table, in int8. Activations are quantised at run time by their own range.

    Args:
        source: Path of the fp32 graph.
        path: Path of the graph to write.
    """
    operators = ["MatMul", "Gemm", "Gather"]
    # one scale for each output channel of a product: half the error of one scale for all, in 0.5 % more bytes
    quantize_dynamic(source, path, weight_type=QuantType.QInt8, op_types_to_quantize=operators, per_channel=True)


class _Images(CalibrationDataReader):
    def __init__(self, images: Iterable[np.ndarray]):
        self.images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        return None if image is None else {"pixel_values": image}


def to_static_int8(source: Path, path: Path, images: Iterable[np.ndarray]):
    """Store weights in int8 per channel, with activation ranges measured on calibration images.

    Ranges computed at run time, as for texts, make convolutions several times slower than fp32. The projection to the
    embedding multiplies in fp32: it takes no time, and one range for all pooled channels was a third of the error.

    Args:
        source: Path of the fp32 graph.
        path: Path of the graph to write.
        images: Prepared calibration images, (1, 3, S, S) float32 each.
    """
    model = onnx.load(source)
    stem = [node.name for node in model.graph.node if node.op_type == "Conv"][:STEM]
    projection = _last_product(model)
    quantize_static(
        source,
        path,
        _Images(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        nodes_to_exclude=[*stem, projection.name],
    )
    model = onnx.load(path)
    _store_weight_in_int8(model, _last_product(model))
    onnx.save(model, path)


def _last_product(model: onnx.ModelProto) -> onnx.NodeProto:
    """The last product with a stored matrix: the projection to the embedding."""
    stored = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul") and node.input[1] in stored]
    return products[-1]


def _store_weight_in_int8(model: onnx.ModelProto, node: onnx.NodeProto):
    """Store the matrix of a product in int8 with a scale for each output channel, and multiply in fp32."""
    name, graph = node.input[1], model.graph
    (tensor,) = (tensor for tensor in graph.initializer if tensor.name == name)
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    axis, weight = (0 if transposed else 1), numpy_helper.to_array(tensor)
    scale = np.maximum(np.abs(weight).max(1 - axis) / 127, np.finfo(np.float32).tiny)
    rounded = np.round(weight / np.expand_dims(scale, 1 - axis)).astype(np.int8)
    graph.initializer.remove(tensor)
    graph.initializer.extend(
        [numpy_helper.from_array(rounded, f"{name}_int8"), numpy_helper.from_array(scale, f"{name}_scale")]
    )
    cast = helper.make_node(
        "DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], f"{name}_dequant", axis=axis
    )
    graph.node.insert(list(graph.node).index(node), cast)


def to_q4(source: Path, path: Path):
    """Store the weights of matrix products and embedding tables in 4 bits, with a scale for each block of 32.

    Args:
        source: Path of the fp32 graph.
        path: Path of the graph to write.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=4,
        op_types_to_quantize=("MatMul", "Gather"),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )
    quantizer = MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    with np.errstate(invalid="ignore", divide="ignore"):  # a row of zeros, such as the padding token's, gives 0 / 0
        quantizer.process()
    onnx.save(quantizer.model.model, path)


def _save_without_shapes(model: onnx.ModelProto, path: Path):
    """Save a graph without its traced intermediate shapes and types, which are no longer correct."""
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)
