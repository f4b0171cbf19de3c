"""Peak memory of a stage, measured in a process of its own.

python -m training.studies.benchmarks.peak STAGE RECIPE


Its last line is the bytes of the process with the model loaded, and at most.
"""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from training import align, distill
from training.config import RECIPE_FILE, AlignRecipe, DistillRecipe, TrainingRecipe, parse_recipe, save_recipe
from training.engine import loop
from training.utils.timing import peak_bytes, resident_bytes

STAGES: dict[str, tuple[ModuleType, type[TrainingRecipe]]] = {
    "distill": (distill, DistillRecipe),
    "align": (align, AlignRecipe),
}


def peak_of(stage: str, recipe: TrainingRecipe) -> tuple[int, int]:
    """Bytes of a process that runs a recipe: with the model loaded, and at most.

    Args:
        stage: one of `STAGES`.
        recipe: of that stage; its `output_dir` is made, and must not be there yet.

    Raises:
        RuntimeError: the run failed.
    """
    folder = Path(recipe.output_dir)
    folder.mkdir(parents=True)
    save_recipe(recipe, folder)
    child = subprocess.run(
        [sys.executable, "-m", "training.studies.benchmarks.peak", stage, str(folder / RECIPE_FILE)],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        raise RuntimeError(f"The run of {folder / RECIPE_FILE} failed:\n{child.stderr[-3000:]}")
    loaded, peak = json.loads(child.stdout.splitlines()[-1])
    return loaded, peak


def main(argv: list[str]):
    """Run the recipe and print."""
    script, recipe_class = STAGES[argv[0]]
    loaded: list[int] = []

    def train(*arguments: Any, **keywords: Any) -> loop.TrainingResult:
        loaded.append(resident_bytes())
        return loop.train(*arguments, **keywords)

    script.train = train  # type: ignore[attr-defined]
    script.run(parse_recipe(recipe_class, ["--config", argv[1]]))
    print(json.dumps([loaded[0], peak_bytes()]))


if __name__ == "__main__":
    main(sys.argv[1:])
