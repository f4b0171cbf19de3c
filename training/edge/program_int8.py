"""A tower in int8 as XNNPACK computes it, before it becomes an ExecuTorch program."""

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

from training.edge.variants import STEM

CONVOLUTION = torch.ops.aten.conv2d.default
CLAMPS = (torch.ops.aten.hardtanh.default, torch.ops.aten.hardtanh_.default)  # such as ReLU6


def to_int8(
    module: nn.Module,
    tower: str,
    example: tuple[Tensor, ...],
    shapes: dict[str, Any],
    images: Iterable[np.ndarray],
) -> nn.Module:
    """Weights in int8 a channel. The image tower's activations are in ranges that were seen on real images, the text
    tower's by their own range, as they come; its tables are in int8 a row.

    Args:
        module: the tower; it stays as it is.
        tower: `vision` or `text`.
        example: what it is traced with.
        shapes: which of its dimensions are free.
        images: prepared real images (1, 3, S, S).

    Returns:
        A module of the same inputs and output.
    """
    dynamic = tower == "text"
    if dynamic:
        module = copy.deepcopy(module)
        _shrink_tables(module)
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
    graph = torch.export.export(module, example, dynamic_shapes=shapes).module()
    prepared = prepare_pt2e(graph, _Quantizer().set_global(config))
    # the text tower runs once too, so that ranges of its weights are seen
    for inputs in [example] if dynamic else ((torch.from_numpy(image),) for image in images):
        prepared(*inputs)
    return convert_pt2e(prepared)


class _Quantizer(XNNPACKQuantizer):
    """XNNPACK's own, but for the stem, which stays in single precision as in an ONNX file, and for clamps."""

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Leave scalars alone: as the float tensors that they would become, they cannot be added to positions."""
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        """Take a convolution's range after the clamp that follows it, which XNNPACK computes with it. Before it, most
        of the range would be numbers that are cut off.
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
    """An embedding table in int8, with a scale a row, in ordinary operators: an app needs no further kernels."""

    rows: Tensor
    scales: Tensor

    def __init__(self, table: nn.Embedding):
        super().__init__()
        weight = table.weight.detach()
        scales = weight.abs().amax(1, keepdim=True) / 127  # (V, 1)
        self.register_buffer("scales", scales)
        # a row of zeros, such as the padding token's, has no scale
        rows = weight / scales.clamp(min=torch.finfo(scales.dtype).tiny)
        self.register_buffer("rows", rows.round().to(torch.int8))  # (V, D)

    def forward(self, ids: Tensor) -> Tensor:
        rows, scales = (nn.functional.embedding(ids, table) for table in (self.rows, self.scales))
        return rows.to(scales.dtype) * scales


def _shrink_tables(module: nn.Module):
    for name, child in module.named_children():
        if isinstance(child, nn.Embedding):
            setattr(module, name, _Int8Table(child))
        else:
            _shrink_tables(child)
