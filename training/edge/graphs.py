"""ONNX: write towers as graphs with the input and output names of transformers.js, quantize and run them."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.edge.towers import INPUTS, OUTPUTS, STEM, Runner, cannot_export, trace_inputs

# the newest opset that ONNX Runtime Web and ONNX Runtime 1.16 support; newer opsets fold attention into one node
OPSET = 20


def write_tower(
    student: DCCLIPModel, tower: str, variant: str, path: Path, images: Iterable[np.ndarray]
):
    """Write a graph; `training.edge.formats.Format` describes the arguments.

    Raises:
        ValueError: The tower cannot be traced.
    """
    if variant == "fp32":
        trace(student, tower, path)
    else:
        quantize(path.with_name(f"{tower}_model.onnx"), tower, path, images)


def open_tower(path: Path, threads: int = 0) -> Runner:
    """Open a graph on the CPU as a function from inputs by name to embeddings.

    Args:
        path: Path of the file.
        threads: Threads of one operator; 0 takes all cores.

    Raises:
        ValueError: This machine cannot run the graph, for example because it has no int8 kernel.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # errors only: ONNX Runtime warns of every constant that it folds
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the exceptions of ONNX Runtime have no common base class
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path.name}: ONNX Runtime {onnxruntime.__version__} on this machine has no kernel for it ({reason})."
        ) from error
    return lambda inputs: session.run(None, inputs)[0]


def trace(student: DCCLIPModel, tower: str, path: Path):
    """Write one tower as a graph for any number of images, or texts of any supported length.

    Args:
        student: The model, on the CPU, in eval mode and float32.
        tower: The tower: `vision` or `text`.
        path: Path of the graph.

    Raises:
        ValueError: The tower cannot be traced.
    """
    module, example, shapes = trace_inputs(student, tower)
    try:
        write_graph(module, tower, example, shapes, path)
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        remedy = f", or choose another {tower}_config"
        raise cannot_export(student, tower, "traced to ONNX", reason, remedy) from error
    model = onnx.load(path)
    # turns the cosines of the two single towers into logits
    helper.set_model_props(model, {"logit_scale": repr(student.logit_scale.exp().item())})
    onnx.save(model, path)


def write_graph(
    graph: nn.Module,
    tower: str,
    example: tuple[Tensor, ...],
    shapes: dict[str, Any] | tuple[Any, ...],
    path: Path,
    external_data: bool = False,
):
    """Write a module as a graph, such as a tower of any model.

    Args:
        graph: Module that maps images, or token ids and mask, to embeddings; on the CPU, in float32.
        tower: The tower, for the names of inputs and output: `vision` or `text`.
        example: Example inputs. The batch size must be at least 2, since the tracer takes 1 as constant.
        shapes: Dynamic dimensions of the inputs, in the format of `torch.export`.
        path: Path of the graph.
        external_data: Whether the weights go to a second file, which a graph of more than 2 GiB needs.
    """
    with warnings.catch_warnings(action="ignore"):  # about PyTorch's own code
        torch.onnx.export(
            graph.eval(),
            example,
            path,
            dynamo=True,
            opset_version=OPSET,
            input_names=INPUTS[tower],
            output_names=[OUTPUTS[tower]],
            dynamic_shapes=shapes,
            external_data=external_data,
            verbose=False,
        )
    model = onnx.load(path, load_external_data=False)
    # the exporter's notes name local source files and are a tenth of a small graph
    for part in (
        model.graph,
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        part.ClearField("metadata_props")
    for node in model.graph.node:
        node.ClearField("doc_string")
    onnx.save(model, path)


def quantize(source: Path, tower: str, path: Path, images: Iterable[np.ndarray]):
    """Write a traced tower in int8.

    Args:
        source: Path of the fp32 graph.
        tower: The tower: `vision` or `text`.
        path: Path of the graph to write.
        images: Prepared calibration images, (1, 3, S, S) float32 each, for the int8 ranges of the image tower.
    """
    if tower == "text":
        # weights and the token table in int8, activations by their own range at run time; one scale for each output
        # channel of a product: half the error of one scale for all, in 0.5 % more bytes
        operators = ["MatMul", "Gemm", "Gather"]
        quantize_dynamic(
            source,
            path,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=operators,
            per_channel=True,
        )
    else:
        _to_static_int8(source, path, images)
    model = onnx.load(path)
    helper.set_model_props(
        model, {entry.key: entry.value for entry in onnx.load(source).metadata_props}
    )
    onnx.save(model, path)


class _Images(CalibrationDataReader):
    def __init__(self, images: Iterable[np.ndarray]):
        self.images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        return None if image is None else {"pixel_values": image}


def _to_static_int8(source: Path, path: Path, images: Iterable[np.ndarray]):
    """Store weights in int8 per channel, with activation ranges measured on calibration images.

    Ranges computed at run time, as for texts, make convolutions several times slower than fp32. The projection to the
    embedding multiplies in fp32: it takes no time, and one range for all pooled channels was a third of the error.
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
    products = [
        node
        for node in model.graph.node
        if node.op_type in ("Gemm", "MatMul") and node.input[1] in stored
    ]
    return products[-1]


def _store_weight_in_int8(model: onnx.ModelProto, node: onnx.NodeProto):
    """Store the matrix of a product in int8 with a scale for each output channel, and multiply in fp32."""
    name = node.input[1]
    graph = model.graph
    (tensor,) = (tensor for tensor in graph.initializer if tensor.name == name)
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    axis = 0 if transposed else 1
    weight = numpy_helper.to_array(tensor)
    scale = np.maximum(np.abs(weight).max(1 - axis) / 127, np.finfo(np.float32).tiny)
    rounded = np.round(weight / np.expand_dims(scale, 1 - axis)).astype(np.int8)
    graph.initializer.remove(tensor)
    graph.initializer.extend(
        [
            numpy_helper.from_array(rounded, f"{name}_int8"),
            numpy_helper.from_array(scale, f"{name}_scale"),
        ]
    )
    cast = helper.make_node(
        "DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], f"{name}_dequant", axis=axis
    )
    graph.node.insert(list(graph.node).index(node), cast)
