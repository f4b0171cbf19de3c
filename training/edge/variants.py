"""The same graph in fewer bytes."""

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

from training.edge.quiet import quiet

BLOCK = 32
# what half precision may change in an output channel, relative to it: twice its rounding. Folded batch norms leave
# depthwise convolutions with channels so small that half precision has few bits for them
HALF_LOSS = 2.0**-10
FEW = 4  # channels that a filter sees
# convolutions at the input that stay in single precision: a stem of few channels and the one after it cost next to no
# time, and rounding there reaches everything behind
STEM = 2


def make_variant(source: Path, tower: str, variant: str, path: Path, images: Iterable[np.ndarray]):
    """Write a variant of a traced tower.

    Args:
        source: the fp32 graph.
        tower: `vision` or `text`.
        variant: `fp16`, `int8` or `q4`.
        path: of the file.
        images: prepared real images (1, 3, S, S), by which the image tower's int8 ranges are set.
    """
    with quiet():
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
    """Store weights in half precision and compute in single: half the bytes, and the speed of fp32 everywhere.

    A CPU has no half-precision kernels for most operators, and casts at each of them would make the graph slower;
    these casts are of constants, which a session folds once when it loads.
    """
    model = onnx.load(source)
    graph, casts = model.graph, []
    for tensor in [tensor for tensor in graph.initializer if _is_large_float(tensor)]:
        single = numpy_helper.to_array(tensor)
        half, name = single.astype(np.float16), tensor.name
        if single.ndim == 4 and single.shape[1] <= FEW and _largest_loss(single, half) > HALF_LOSS:
            continue  # depthwise, or at the input: a few bytes, and single channels count
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_fp16"))
        gathers = [node for node in graph.node if node.op_type == "Gather" and node.input[0] == name]
        users = [node for node in graph.node if name in node.input]
        if len(gathers) == len(users):  # a table: only the rows that are read are cast
            for node in gathers:
                node.input[0], rows = f"{name}_fp16", node.output[0]
                node.output[0] = f"{rows}_fp16"
                position = list(graph.node).index(node)
                graph.node.insert(position + 1, _to_float(f"{rows}_fp16", rows))
        else:
            casts.append(_to_float(f"{name}_fp16", name))
    for cast in reversed(casts):
        graph.node.insert(0, cast)
    _forget_shapes(model, path)


def _is_large_float(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and int(np.prod(tensor.dims)) >= BLOCK


def _largest_loss(single: np.ndarray, half: np.ndarray) -> float:
    """The largest relative error of a convolution's output channel."""
    difference, length = (np.linalg.norm(each.reshape(len(each), -1), axis=1) for each in (half - single, single))
    return float((difference / np.maximum(length, np.finfo(np.float32).tiny)).max())


def _to_float(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], f"{target}_cast", to=TensorProto.FLOAT)


def to_dynamic_int8(source: Path, path: Path):
    """Weights, the token table included, in int8; activations as they come, by their own range."""
    quantize_dynamic(source, path, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm", "Gather"])


class _Images(CalibrationDataReader):
    def __init__(self, images: Iterable[np.ndarray]):
        self.images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        return None if image is None else {"pixel_values": image}


def to_static_int8(source: Path, path: Path, images: Iterable[np.ndarray]):
    """Weights in int8 a channel, activations in ranges that were seen on real images.

    Ranges that are taken anew for each image, as for text, make convolutions several times slower than fp32.
    """
    stem = [node.name for node in onnx.load(source).graph.node if node.op_type == "Conv"][:STEM]
    quantize_static(
        source,
        path,
        _Images(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        nodes_to_exclude=stem,
    )


def to_q4(source: Path, path: Path):
    """Weights of matrix products and tables in 4 bits, a scale for each block of 32."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=4,
        op_types_to_quantize=("MatMul", "Gather"),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )
    quantizer = MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    with np.errstate(invalid="ignore", divide="ignore"):  # a row of zeros, such as the padding token's, has no scale
        quantizer.process()
    onnx.save(quantizer.model.model, path)


def _forget_shapes(model: onnx.ModelProto, path: Path):
    """Intermediate shapes and types as they were traced no longer hold."""
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)
