"""Whole runs of a stage in this process, and what they log."""

import json
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState

from training import align, distill
from training.config import DistillRecipe, TrainingRecipe


def run(recipe: TrainingRecipe) -> Path:
    """Run a recipe as its script does in a new process, and return its output folder."""
    AcceleratorState._reset_state(reset_partial_state=True)
    (distill if isinstance(recipe, DistillRecipe) else align).run(recipe)
    return Path(recipe.output_dir)


def read_log(folder: Path | str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in Path(folder, "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def losses(folder: Path | str, name: str = "loss") -> list[float]:
    """A loss of every logged step."""
    return [line[name] for line in read_log(folder) if "loss" in line]
