"""Peak memory of a training stage, measured in a process of its own.

The benchmarks start it:

    python -m training.studies.benchmarks.peak STAGE RECIPE_FILE
"""

import json
import subprocess
import sys
import tempfile
from types import ModuleType
from typing import Any

from training import align, distill
from training.config import RECIPE_FILE, AlignRecipe, DistillRecipe, TrainingRecipe, parse_recipe, save_recipe
from training.engine import loop
from training.engine import stage as engine_stage
from training.utils.timing import peak_bytes, resident_bytes

STAGES: dict[str, tuple[ModuleType, type[TrainingRecipe]]] = {
    "distill": (distill, DistillRecipe),
    "align": (align, AlignRecipe),
}


def peak_of(stage: str, recipe: TrainingRecipe) -> tuple[int, int]:
    """Run a recipe in a new process, and measure its memory.

    Args:
        stage: One of `STAGES`.
        recipe: Recipe of that stage. Its `output_dir` must not exist yet.

    Returns:
        Resident bytes before the first step, with the model loaded, and peak bytes.

    Raises:
        RuntimeError: If the run fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_recipe(recipe, folder)
        child = subprocess.run(
            [sys.executable, "-m", "training.studies.benchmarks.peak", stage, f"{folder}/{RECIPE_FILE}"],
            capture_output=True,
            text=True,
            check=False,
        )
    if child.returncode:
        raise RuntimeError(f"The run in {recipe.output_dir} failed:\n{child.stderr[-3000:]}")
    loaded, peak = json.loads(child.stdout.splitlines()[-1])
    return loaded, peak


def main(stage: str, recipe_file: str):
    """Run a recipe, and print the bytes of the loaded process and of its peak as JSON.

    Args:
        stage: One of `STAGES`.
        recipe_file: YAML file of the recipe.
    """
    script, recipe_class = STAGES[stage]
    loaded: list[int] = []

    def train(*arguments: Any, **keywords: Any) -> loop.TrainingResult:
        loaded.append(resident_bytes())
        return loop.train(*arguments, **keywords)

    engine_stage.train = train  # measures after loading, before the first step
    script.run(parse_recipe(recipe_class, ["--config", recipe_file]))
    print(json.dumps([loaded[0], peak_bytes()]))


if __name__ == "__main__":
    main(*sys.argv[1:])
