"""Towers as ONNX graphs, in the names that transformers.js reads."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.edge.quiet import quiet
from training.edge.towers import INPUTS, OUTPUTS, TOWERS, describe_tower, traceable

# the newest that ONNX Runtime Web and ORT 1.16 still read; newer ones fold attention into one node that they lack
OPSET = 20


def trace(student: DCCLIPModel, tower: str, path: Path):
    """Write one tower as a graph that takes any number of images, or of texts of any length it can read.

    Args:
        student: on the CPU, in eval mode and float32.
        tower: one of `TOWERS`.
        path: of the file.

    Raises:
        ValueError: the tower cannot be traced.
    """
    graph, example, shapes = traceable(student, tower)
    try:
        write_graph(graph, tower, example, shapes, path)
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(
            f"towers: the {describe_tower(student, tower)} cannot be traced to ONNX ({reason}). Export the other "
            f"tower alone with --towers {'text' if tower == 'vision' else 'vision'}, or choose another {tower}_config."
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
    """Write a module as a graph, be it a student's tower or another.

    Args:
        graph: images, or ids and mask, to embeddings; on the CPU, in float32.
        tower: one of `TOWERS`, for the names of inputs and output.
        example: what it is traced with; a batch of one would be taken for the rule.
        shapes: which of its dimensions are free, as `torch.export` takes them.
        path: of the file.
        external_data: weights in a file of their own beside it, as a graph of more than 2 GiB needs.
    """
    with quiet():
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
    """Remove the exporter's notes, which name source files of the machine and are a tenth of a small graph; add the
    logit scale, by which whoever runs the towers alone makes probabilities of cosines.
    """
    model = onnx.load(path)
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        part.ClearField("metadata_props")
    for node in model.graph.node:
        node.ClearField("doc_string")
    helper.set_model_props(model, {"logit_scale": repr(student.logit_scale.exp().item())})
    onnx.save(model, path)


def join(vision: Path, text: Path, path: Path):
    """Both towers in one graph that also compares every image with every text.

    Args:
        vision: the image tower's file, of any variant.
        text: the text tower's.
        path: of the file. Outputs: `logits_per_image` (images, texts), `logits_per_text`, `text_embeds`,
            `image_embeds`.
    """
    seen, read = (
        onnx.compose.add_prefix(onnx.load(file), f"{tower}/")
        for tower, file in zip(TOWERS, (vision, text), strict=True)
    )
    properties = {entry.key: entry.value for entry in read.metadata_props}
    kept = {f"{tower}/{name}": name for tower in TOWERS for name in (*INPUTS[tower], OUTPUTS[tower])}
    for model in (seen, read):
        _rename(model.graph, kept)
    opsets: dict[str, int] = {}
    for entry in (*seen.opset_import, *read.opset_import):
        opsets[entry.domain] = max(entry.version, opsets.get(entry.domain, 0))
    nodes = [
        *seen.graph.node,
        *read.graph.node,
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
        [*read.graph.input, *seen.graph.input],
        [*outputs, *read.graph.output, *seen.graph.output],
        [*seen.graph.initializer, *read.graph.initializer, scale],
        value_info=[*seen.graph.value_info, *read.graph.value_info],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(*entry) for entry in opsets.items()])
    helper.set_model_props(model, properties)
    model.ir_version = max(seen.ir_version, read.ir_version)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _rename(graph: onnx.GraphProto, names: dict[str, str]):
    """Give inputs and outputs of the graph the names that readers expect."""
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for listed in (node.input, node.output):
            for position, name in enumerate(listed):
                listed[position] = names.get(name, name)
