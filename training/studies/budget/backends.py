"""The same two calls behind each backend: images (B, 3, S, S), and ids with mask (B, L), all numpy, to embeddings.

Each function imports what it needs: a process that measures ONNX Runtime never loads PyTorch.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

Towers = tuple[Callable[[np.ndarray], object], Callable[[np.ndarray, np.ndarray], object]]


def open_towers(backend: str, name: str, folder: Path, weights: Path, threads: int) -> Towers:
    """Load both towers.

    Args:
        backend: one of `options.BACKENDS`.
        name: of the model.
        folder: what `prepare` left.
        weights: of the model.
        threads: within one operator.
    """
    if backend.startswith("onnx"):
        return _open_graphs(backend, folder, threads)
    return _open_modules(backend, name, weights, threads)


def graph_path(folder: Path, tower: str, backend: str) -> Path:
    """Of a tower's ONNX file."""
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
