"""Both towers behind each backend, with numpy inputs: images (B, 3, S, S), and token ids and mask (B, L).

Imports are inside the functions, so that a process that measures ONNX Runtime does not load PyTorch.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

Towers = tuple[Callable[[np.ndarray], object], Callable[[np.ndarray, np.ndarray], object]]


def open_towers(backend: str, name: str, folder: Path, weights: Path, threads: int) -> Towers:
    """Load both towers.

    Args:
        backend: One of `options.BACKENDS`.
        name: Name of the model.
        folder: Folder that `prepare` wrote.
        weights: Folder of the weights.
        threads: Number of threads within one operator.

    Returns:
        Image tower and text tower as functions.
    """
    if backend.startswith("onnx"):
        return _open_graphs(backend, folder, threads)
    return _open_modules(backend, name, weights, threads)


def graph_path(folder: Path, tower: str, backend: str) -> Path:
    """Path of the ONNX file of a tower.

    Args:
        folder: Folder that `prepare` wrote.
        tower: `vision` or `text`.
        backend: `onnx-fp32` or `onnx-int8`.
    """
    return folder / "onnx" / f"{tower}-{backend}.onnx"


def _open_graphs(backend: str, folder: Path, threads: int) -> Towers:
    from training.edge.sessions import open_session

    image, text = (open_session(graph_path(folder, tower, backend), threads) for tower in ("vision", "text"))
    return (
        lambda pixel_values: image.run(None, {"pixel_values": pixel_values}),
        lambda input_ids, attention_mask: text.run(None, {"input_ids": input_ids, "attention_mask": attention_mask}),
    )


def _open_modules(backend: str, name: str, weights: Path, threads: int) -> Towers:
    import torch

    from training.studies.budget.models import load_weights

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    encoder = load_weights(name, weights)
    image: Callable = encoder.image_tower.eval()
    text: Callable = encoder.text_tower.eval()
    if backend == "compiled":
        image, text = torch.compile(image), torch.compile(text, dynamic=True)
    return (
        lambda pixel_values: image(torch.from_numpy(pixel_values)),
        lambda input_ids, attention_mask: text(torch.from_numpy(input_ids), torch.from_numpy(attention_mask)),
    )
