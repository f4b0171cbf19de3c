"""Write a model's weights, graphs and inputs to disk, where the measured processes load them.

`run.py` starts it in a process of its own:

    python -m training.studies.budget.prepare '{"name": ..., "folder": ..., "model": ..., "graphs": [...]}'
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.studies.budget.baselines import DualEncoder
from training.studies.budget.inputs import Inputs
from training.studies.budget.models import WEIGHTS, bytes_in, load_weights, save_weights, tokenizer_of
from training.studies.budget.texts import token_ids
from training.utils.files import write_text

FACTS = "facts.json"


def prepare(name: str, folder: str | Path, model: str | Path | None, graphs: list[str]):
    """Write weights, graphs and inputs. `facts.json` is written last and marks the folder as complete.

    Args:
        name: Name of the model.
        folder: Folder for the files.
        model: Folder of a finished student, which is only read; None for a size or a baseline.
        graphs: ONNX backends to export.
    """
    folder, model = Path(folder), None if model is None else Path(model)
    folder.mkdir(parents=True, exist_ok=True)
    encoder = load_weights(name, model) if model else save_weights(name, folder)
    weights = model or folder / WEIGHTS
    tokenizer, max_length = tokenizer_of(weights, model is not None)
    pad_token_id = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    inputs = Inputs(encoder.image_size, pad_token_id, token_ids(tokenizer, max_length))
    inputs.write(folder)
    facts = {
        "weights": str(weights.resolve()),
        "parameters": _count(encoder.image_tower) + _count(encoder.text_tower),
        "image_parameters": _count(encoder.image_tower),
        "text_parameters": _count(encoder.text_tower),
        "embedding_parameters": encoder.embedding_table.weight.numel(),
        "bytes": {"pytorch": bytes_in(weights)},
        "tokens": {language: sum(map(len, texts)) / len(texts) for language, texts in inputs.texts.items()},
        "failures": {},
    }
    export(encoder, inputs, max_length, folder, graphs, facts)
    write_text(folder / FACTS, json.dumps(facts))


def export(
    encoder: DualEncoder, inputs: Inputs, max_length: int, folder: Path, graphs: list[str], facts: dict[str, Any]
):
    """Write the ONNX graphs, and add their sizes in bytes to `facts`.

    If a model cannot be exported, `facts["failures"]` gets the reason, and the model is still timed in PyTorch.

    Args:
        encoder: Both towers.
        inputs: Inputs of the model.
        max_length: Largest number of tokens per text.
        folder: Folder of the model.
        graphs: ONNX backends to export.
        facts: Facts of the model; modified in place.
    """
    if not graphs:
        return
    from training.studies.budget.graphs import write_graphs

    try:
        write_graphs(encoder, inputs, max_length, folder, graphs)
    except Exception as error:  # three libraries are involved, and their errors share no base class
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        facts["failures"] = dict.fromkeys(graphs, reason)
        return
    for backend in graphs:
        files = (folder / "onnx").glob(f"*-{backend}.onnx*")
        facts["bytes"][backend] = sum(path.stat().st_size for path in files)


def _count(tower: nn.Module) -> int:
    return sum(parameter.numel() for parameter in tower.parameters())


if __name__ == "__main__":
    with torch.inference_mode():
        prepare(**json.loads(sys.argv[1]))
