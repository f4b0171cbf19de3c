"""Write towers as ONNX graphs, with the input and output names of transformers.js."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.edge.towers import INPUTS, OUTPUTS, TOWERS, describe_tower, trace_inputs
from training.utils.quiet import quiet_export

# the newest opset that ONNX Runtime Web and ONNX Runtime 1.16 support; newer opsets fold attention into one node
OPSET = 20


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
        raise ValueError(
            f"towers: the {describe_tower(student, tower)} cannot be traced to ONNX ({reason}). Export only the "
            f"other tower with --towers {'text' if tower == 'vision' else 'vision'}, or choose another {tower}_config."
        ) from error
    _finish(path, student)


def write_graph(
    graph: nn.Module,
    tower: str,
    example: tuple[Tensor, ...],
    shapes: dict[str, Any] | tuple[Any, ...],
    path: Path,
    external_data: bool = False,
):
    """Write a module as a graph: a tower of a student or of another model.

    Args:
        graph: Module that maps images, or token ids and mask, to embeddings; on the CPU, in float32.
        tower: The tower, for the names of inputs and output: `vision` or `text`.
        example: Example inputs. The batch size must be at least 2, since the tracer takes 1 as constant.
        shapes: Dynamic dimensions of the inputs, in the format of `torch.export`.
        path: Path of the graph.
        external_data: Whether the weights go to a second file, which a graph of more than 2 GiB needs.
    """
    with quiet_export():
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


def _finish(path: Path, student: DCCLIPModel):
    """Remove the exporter's notes and add the logit scale.

    The notes name local source files and are a tenth of a small graph. The logit scale turns the cosines of the two
    single towers into logits.
    """
    model = onnx.load(path)
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        part.ClearField("metadata_props")
    for node in model.graph.node:
        node.ClearField("doc_string")
    helper.set_model_props(model, {"logit_scale": repr(student.logit_scale.exp().item())})
    onnx.save(model, path)


def join(vision: Path, text: Path, path: Path):
    """Write both towers to one graph that also compares every image with every text.

    Its outputs are `logits_per_image` (images, texts), `logits_per_text`, `text_embeds` and `image_embeds`.

    Args:
        vision: Path of the image tower's graph, of any variant.
        text: Path of the text tower's graph, of any variant.
        path: Path of the graph to write.
    """
    vision_model, text_model = (
        onnx.compose.add_prefix(onnx.load(file), f"{tower}/")
        for tower, file in zip(TOWERS, (vision, text), strict=True)
    )
    properties = {entry.key: entry.value for entry in text_model.metadata_props}
    public_names = {f"{tower}/{name}": name for tower in TOWERS for name in (*INPUTS[tower], OUTPUTS[tower])}
    for model in (vision_model, text_model):
        _rename(model.graph, public_names)
    opsets: dict[str, int] = {}
    for entry in (*vision_model.opset_import, *text_model.opset_import):
        opsets[entry.domain] = max(entry.version, opsets.get(entry.domain, 0))
    nodes = [
        *vision_model.graph.node,
        *text_model.graph.node,
        helper.make_node("Transpose", ["image_embeds"], ["image_embeds_t"], perm=[1, 0]),
        helper.make_node("MatMul", ["text_embeds", "image_embeds_t"], ["cosines"]),
        helper.make_node("Mul", ["cosines", "logit_scale"], ["logits_per_text"]),
        helper.make_node("Transpose", ["logits_per_text"], ["logits_per_image"], perm=[1, 0]),
    ]
    scale = numpy_helper.from_array(np.array(properties["logit_scale"], np.float32), "logit_scale")
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{rows}_batch_size", f"{columns}_batch_size"])
        for name, rows, columns in (("logits_per_image", "image", "text"), ("logits_per_text", "text", "image"))
    ]
    graph = helper.make_graph(
        nodes,
        "dcclip",
        [*text_model.graph.input, *vision_model.graph.input],
        [*outputs, *text_model.graph.output, *vision_model.graph.output],
        [*vision_model.graph.initializer, *text_model.graph.initializer, scale],
        value_info=[*vision_model.graph.value_info, *text_model.graph.value_info],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(*entry) for entry in opsets.items()])
    helper.set_model_props(model, properties)
    model.ir_version = max(vision_model.ir_version, text_model.ir_version)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _rename(graph: onnx.GraphProto, names: dict[str, str]):
    """Rename inputs and outputs of a graph."""
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for listed in (node.input, node.output):
            for position, name in enumerate(listed):
                listed[position] = names.get(name, name)
