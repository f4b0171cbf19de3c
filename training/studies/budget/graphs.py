"""ONNX graphs of any dual encoder in fp32 and int8, as `training/export.py` writes them for ours."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from training.edge.graphs import write_graph
from training.edge.variants import make_variant
from training.studies.budget.backends import graph_path
from training.studies.budget.baselines import DualEncoder
from training.studies.budget.inputs import Inputs

NUM_CALIBRATION = 4
# limit of a protobuf file; larger weights are stored beside it
MAX_PROTOBUF_BYTES = 2**31


def write_graphs(encoder: DualEncoder, inputs: Inputs, max_length: int, folder: Path, backends: list[str]):
    """Export both towers to ONNX, and quantise them if int8 is requested.

    Args:
        encoder: Both towers, on the CPU, in float32.
        inputs: Inputs of the model; its images calibrate int8.
        max_length: Largest number of tokens per text.
        folder: Folder of the model; the graphs are written to `onnx/`.
        backends: `onnx-fp32`, `onnx-int8` or both; int8 is derived from fp32, which is always written.

    Raises:
        ValueError: If a tower cannot be traced.
    """
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    batch, length = Dim("batch_size"), Dim("sequence_length", max=max_length)
    ids, mask = (torch.from_numpy(array) for array in inputs.text_batches(next(iter(inputs.texts)), 2)[0])
    _write(_Normalised(encoder.image_tower), "vision", (torch.from_numpy(inputs.images(2)),), [{0: batch}], folder)
    _write(_Normalised(encoder.text_tower), "text", (ids, mask), [{0: batch, 1: length}] * 2, folder)
    if "onnx-int8" in backends:
        for tower in ("vision", "text"):
            fp32, int8 = (graph_path(folder, tower, backend) for backend in ("onnx-fp32", "onnx-int8"))
            make_variant(fp32, tower, "int8", int8, _images(inputs))


class _Normalised(nn.Module):
    """A tower with L2-normalised embeddings, as in our exports."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def forward(self, *inputs: Tensor) -> Tensor:
        return nn.functional.normalize(self.tower(*inputs), dim=-1)


def _write(graph: nn.Module, tower: str, example: tuple[Tensor, ...], shapes: list[dict], folder: Path):
    size = sum(parameter.nbytes for parameter in graph.parameters())
    path = graph_path(folder, tower, "onnx-fp32")
    write_graph(graph, tower, example, (tuple(shapes),), path, external_data=size >= MAX_PROTOBUF_BYTES)


def _images(inputs: Inputs) -> Iterator[np.ndarray]:
    yield from np.split(inputs.images(NUM_CALIBRATION), NUM_CALIBRATION)
