"""A model's weights, graphs and inputs on disk, so that the processes that are measured find them as a user does.

python -m training.studies.budget.prepare NAME FOLDER [--model FINISHED] [--graphs onnx-fp32 onnx-int8]
"""

import argparse
import json
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


def prepare(name: str, folder: Path, model: Path | None, graphs: list[str]):
    """Fill `folder`; `facts.json` comes last, and says that it is complete.

    Args:
        name: of the model.
        folder: for its files.
        model: a finished student, which is left as it is.
        graphs: which ONNX variants are wanted.
    """
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
    encoder: DualEncoder, inputs: Inputs, max_length: int, folder: Path, wanted: list[str], facts: dict[str, Any]
):
    """Write the graphs, and their bytes into `facts`; a model that cannot be traced is still timed in PyTorch."""
    if not wanted:
        return
    from training.studies.budget.graphs import write_graphs

    try:
        write_graphs(encoder, inputs, max_length, folder, wanted)
    except Exception as error:  # of three libraries, whose kinds share no base class
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        facts["failures"] = dict.fromkeys(wanted, reason)
        return
    for backend in wanted:
        files = (folder / "onnx").glob(f"*-{backend}.onnx*")
        facts["bytes"][backend] = sum(path.stat().st_size for path in files)


def _count(tower: nn.Module) -> int:
    return sum(parameter.numel() for parameter in tower.parameters())


def main():
    """Parse and prepare."""
    parser = argparse.ArgumentParser(prog="python -m training.studies.budget.prepare", allow_abbrev=False)
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--graphs", nargs="*", default=[])
    options = parser.parse_args()
    with torch.inference_mode():
        prepare(options.name, options.folder, options.model, options.graphs)


if __name__ == "__main__":
    main()
