"""The graphs of any dual encoder: fp32 and int8, as an export would write them."""

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
# a protobuf file holds no more; larger weights lie beside it
MOST_BYTES = 2**31


def write_graphs(encoder: DualEncoder, inputs: Inputs, max_length: int, folder: Path, wanted: list[str]):
    """Trace both towers, and quantise them where that is wanted.

    Args:
        encoder: on the CPU, in float32.
        inputs: of the model; its images set the ranges of int8.
        max_length: longest text in tokens.
        folder: for `onnx/*.onnx`.
        wanted: `onnx-fp32`, `onnx-int8` or both; int8 is made from fp32.

    Raises:
        ValueError: a tower cannot be traced.
    """
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    batch, length = Dim("batch_size"), Dim("sequence_length", max=max_length)
    ids, mask = (torch.from_numpy(array) for array in inputs.text_batches(next(iter(inputs.texts)), 2)[0])
    _write(_Normalised(encoder.image_tower), "vision", (torch.from_numpy(inputs.images(2)),), [{0: batch}], folder)
    _write(_Normalised(encoder.text_tower), "text", (ids, mask), [{0: batch, 1: length}] * 2, folder)
    if "onnx-int8" in wanted:
        for tower in ("vision", "text"):
            fp32, int8 = (graph_path(folder, tower, backend) for backend in ("onnx-fp32", "onnx-int8"))
            make_variant(fp32, tower, "int8", int8, _images(inputs))


class _Normalised(nn.Module):
    """Embeddings of unit length, as our exports give them."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def forward(self, *inputs: Tensor) -> Tensor:
        return nn.functional.normalize(self.tower(*inputs), dim=-1)


def _write(graph: nn.Module, tower: str, example: tuple[Tensor, ...], shapes: list[dict], folder: Path):
    size = sum(parameter.nbytes for parameter in graph.parameters())
    path = graph_path(folder, tower, "onnx-fp32")
    write_graph(graph, tower, example, (tuple(shapes),), path, external_data=size >= MOST_BYTES)


def _images(inputs: Inputs) -> Iterator[np.ndarray]:
    yield from np.split(inputs.images(NUM_CALIBRATION), NUM_CALIBRATION)
