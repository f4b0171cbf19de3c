"""Quantise a tower to int8 for XNNPACK, before it is lowered to an ExecuTorch program."""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from torch import Tensor, nn
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from training.edge.towers import STEM

CONVOLUTION = torch.ops.aten.conv2d.default
CLAMPS = (torch.ops.aten.hardtanh.default, torch.ops.aten.hardtanh_.default)  # such as ReLU6


def to_int8(
    module: nn.Module,
    tower: str,
    example: tuple[Tensor, ...],
    shapes: dict[str, Any],
    images: Iterable[np.ndarray],
) -> nn.Module:
    """Quantise a tower: weights in int8 per channel, embedding tables in int8 per row.

    Activations of the image tower have ranges measured on calibration images. Activations of the text tower are
    quantised at run time by their own range.

    Args:
        module: The tower. It is not changed.
        tower: The tower's name: `vision` or `text`.
        example: Example inputs for the trace.
        shapes: Dynamic dimensions of the inputs, in the format of `torch.export`.
        images: Prepared calibration images, (1, 3, S, S) float32 each.

    Returns:
        The quantised tower, with the same inputs and output.
    """
    dynamic = tower == "text"
    if dynamic:
        module = copy.deepcopy(module)
        _quantise_tables(module)
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
    graph = torch.export.export(module, example, dynamic_shapes=shapes).module()
    prepared = prepare_pt2e(graph, _Quantizer().set_global(config))
    # the text tower runs once, so that the ranges of its weights are measured
    for inputs in [example] if dynamic else ((torch.from_numpy(image),) for image in images):
        prepared(*inputs)
    return convert_pt2e(prepared)


class _Quantizer(XNNPACKQuantizer):
    """XNNPACK's quantizer with two changes: the stem stays in fp32, as in ONNX files, and clamps set the range."""

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Keep scalars: XNNPACK would make them float tensors, which cannot be added to integer position ids."""
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        """Measure a convolution's range after the clamp that XNNPACK fuses with it.

        Before the clamp, most of the range would be values that are cut off.
        """
        stem = [node for node in model.graph.nodes if node.target == CONVOLUTION][:STEM]
        self.set_filter_function(lambda node: node not in stem)
        model = super().annotate(model)
        for clamp in [node for node in model.graph.nodes if node.target in CLAMPS]:
            convolution = clamp.args[0]
            annotation = convolution.meta.get(Q_ANNOTATION_KEY)
            if convolution.target == CONVOLUTION and annotation and len(convolution.users) == 1:
                clamp.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                    output_qspec=annotation.output_qspec, _annotated=True
                )
                annotation.output_qspec = None
        return model


class _Int8Table(nn.Module):
    """An embedding table in int8 with a scale per row. It uses standard operators, which every app has."""

    rows: Tensor
    scales: Tensor

    def __init__(self, table: nn.Embedding):
        super().__init__()
        weight = table.weight.detach()
        scales = weight.abs().amax(1, keepdim=True) / 127  # (V, 1)
        self.register_buffer("scales", scales)
        # a row of zeros, such as the padding token's, would divide by zero
        rows = weight / scales.clamp(min=torch.finfo(scales.dtype).tiny)
        self.register_buffer("rows", rows.round().to(torch.int8))  # (V, D)

    def forward(self, ids: Tensor) -> Tensor:
        rows, scales = (nn.functional.embedding(ids, table) for table in (self.rows, self.scales))
        return rows.to(scales.dtype) * scales


def _quantise_tables(module: nn.Module):
    for name, child in module.named_children():
        if isinstance(child, nn.Embedding):
            setattr(module, name, _Int8Table(child))
        else:
            _quantise_tables(child)
