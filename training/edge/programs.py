"""ExecuTorch: write, quantize and run towers as programs for native apps. XNNPACK runs them on the CPU.

ExecuTorch is in an extra of its own, so the functions import it.
"""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from modeling_dcclip import DCCLIPModel
from training.edge.towers import STEM, Runner, cannot_export, trace_inputs

MAX_BATCH = 8  # the memory of a program is planned for its largest input
CONVOLUTION = torch.ops.aten.conv2d.default
CLAMPS = (torch.ops.aten.hardtanh.default, torch.ops.aten.hardtanh_.default)  # such as ReLU6


def write_tower(
    student: DCCLIPModel, tower: str, variant: str, path: Path, images: Iterable[np.ndarray]
):
    """Write one tower as a program for up to `MAX_BATCH` images, or texts of any supported length.

    Its method `forward` returns L2-normalized embeddings, and `logit_scale` the factor that turns cosines into logits.

    Args:
        student: The model, on the CPU, in eval mode and float32. It is not changed.
        tower: The tower: `vision` or `text`.
        variant: Number format: `fp32` or `int8`.
        path: Path of the program.
        images: Prepared calibration images, (1, 3, S, S) float32 each, for the int8 ranges of the image tower.

    Raises:
        ValueError: The tower cannot be lowered.
    """
    module, example, shapes = trace_inputs(student, tower, MAX_BATCH)
    try:
        with torch.no_grad():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            if variant == "int8":
                module = to_int8(module, tower, example, shapes, images)
            program = to_edge_transform_and_lower(
                torch.export.export(module, example, dynamic_shapes=shapes),
                partitioner=[XnnpackPartitioner()],
                constant_methods={"logit_scale": student.logit_scale.exp().item()},
            ).to_executorch()
    # the exceptions of exporter, quantizer and backend have no common base class
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        remedy = ", or only fp32 with --variants fp32" if variant != "fp32" else ""
        target = f"lowered to an ExecuTorch program in {variant}"
        raise cannot_export(student, tower, target, reason, remedy) from error
    with path.open("wb") as file:
        program.write_to_file(file)


def to_int8(
    module: nn.Module,
    tower: str,
    example: tuple[Tensor, ...],
    shapes: dict[str, Any],
    images: Iterable[np.ndarray],
) -> nn.Module:
    """Quantize a tower: weights in int8 per channel, embedding tables in int8 per row.

    Activations of the image tower have ranges measured on calibration images. Activations of the text tower are
    quantized at run time by their own range.

    Args:
        module: The tower. It is not changed.
        tower: The tower's name: `vision` or `text`.
        example: Example inputs for the trace.
        shapes: Dynamic dimensions of the inputs, in the format of `torch.export`.
        images: Prepared calibration images, (1, 3, S, S) float32 each.

    Returns:
        The quantized tower, with the same inputs and output.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    dynamic = tower == "text"
    if dynamic:
        module = copy.deepcopy(module)
        _quantize_tables(module)
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
    graph = torch.export.export(module, example, dynamic_shapes=shapes).module()
    prepared = prepare_pt2e(graph, _make_quantizer().set_global(config))
    if dynamic:  # once, so that the ranges of the weights are measured
        prepared(*example)
    else:
        for image in images:
            prepared(torch.from_numpy(image))
    return convert_pt2e(prepared)


def _make_quantizer() -> Any:
    """XNNPACK's quantizer with two changes: the stem stays in fp32, as in ONNX files, and clamps set the range."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    class Quantizer(XNNPACKQuantizer):
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

    return Quantizer()


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
        rows = nn.functional.embedding(ids, self.rows)
        scales = nn.functional.embedding(ids, self.scales)
        return rows.to(scales.dtype) * scales


def _quantize_tables(module: nn.Module):
    for name, child in module.named_children():
        if isinstance(child, nn.Embedding):
            setattr(module, name, _Int8Table(child))
        else:
            _quantize_tables(child)


def open_tower(path: Path, threads: int = 0) -> Runner:
    """Open a program on the CPU for any number of images or texts. Larger inputs are split into batches.

    Args:
        path: Path of the program.
        threads: Threads of one operator; 0 takes the number of PyTorch. The number applies to the whole process: a
            program that was opened with a different number must not be run any more.

    Returns:
        A function from inputs by name to embeddings.

    Raises:
        ValueError: This machine cannot run the program.
    """
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    threads = threads or torch.get_num_threads()
    if portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)
    try:
        program = Runtime.get().load_program(path)
        method = program.load_method("forward")
    except RuntimeError as error:
        raise ValueError(
            f"{path.name}: ExecuTorch on this machine cannot run it ({error})."
        ) from error

    def call(inputs: dict[str, np.ndarray]) -> np.ndarray:
        parts = [torch.from_numpy(array).split(MAX_BATCH) for array in inputs.values()]
        embeddings = []
        for batch in zip(*parts, strict=True):
            embeddings.append(method.execute(batch)[0].numpy())
        return np.concatenate(embeddings)

    return call
