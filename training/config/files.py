"""Read a recipe from YAML and the command line, and save it."""

import re
from argparse import SUPPRESS
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import yaml

from training.config.recipes import TrainingRecipe
from training.utils.cli import OptionParser
from training.utils.files import map_strings, relative_path
from training.utils.reading import read_mapping

RECIPE_FILE = "recipe.yaml"
CONFIGS = Path(__file__).parents[1] / "configs"
# fields that apply to one start of a run, and are not saved
OF_ONE_START = ("resume", "overwrite")
# comments in a saved recipe, not fields: Accelerate sets the processes, and a checkpoint has fewer steps
PROCESSES = re.compile(r"^# number of processes: (\d+)$", re.MULTILINE)
STEPS = re.compile(r"^# number of steps done: (\d+)$", re.MULTILINE)

Recipe = TypeVar("Recipe", bound=TrainingRecipe)


def parse_recipe(
    recipe_class: type[Recipe],
    argv: list[str] | None = None,
    prog: str = "recipe",
    description: str | None = None,
) -> Recipe:
    """Parse a command line into a recipe, as `OptionParser` does.

    Args:
        recipe_class: `DistillRecipe` or `AlignRecipe`.
        argv: Arguments; None takes `sys.argv`.
        prog: Command as users type it, for `--help`.
        description: Docstring of the script, for `--help`. None takes the summary of the recipe's docstring.

    Returns:
        The recipe.

    Raises:
        ValueError: An option is unknown, missing or invalid; the message names the field.
    """
    summary = (recipe_class.__doc__ or "").partition("\n\n")[0]
    parser = OptionParser(recipe_class, prog, description or summary)
    parser.add_argument(
        "--import",
        nargs="+",
        metavar="MODULE",
        default=SUPPRESS,  # only for --help: engine/script.py imports them before
        help="Python modules that register losses or teacher families.",
    )
    return parser.parse(argv)


def save_recipe(
    recipe: TrainingRecipe, folder: str | Path, num_processes: int = 1, num_steps: int | None = None
):
    """Write the resolved recipe to `folder/recipe.yaml`, which `--config` reads.

    Absolute paths become relative to the working directory, or to the home directory. A path that shares no folder
    with either becomes `<elsewhere>/NAME`: name that file again.

    Args:
        recipe: Recipe to save.
        folder: Existing folder.
        num_processes: Number of processes of the run, each with batches of its own.
        num_steps: Number of steps that the run has done so far. Default: all of the recipe.
    """
    fields_of_recipe = {
        name: value for name, value in asdict(recipe).items() if name not in OF_ONE_START
    }
    resolved = yaml.safe_dump(plain(fields_of_recipe), sort_keys=False, allow_unicode=True)
    comment = f"# number of processes: {num_processes}\n" if num_processes > 1 else ""
    if num_steps is not None and num_steps < recipe.max_steps:
        comment += f"# number of steps done: {num_steps}\n"
    (Path(folder) / RECIPE_FILE).write_text(comment + resolved, encoding="utf-8")


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe file without filling in defaults.

    It adds `num_processes`, the number of processes of the run, and `num_steps`, the number of steps that it had done;
    None for all steps.

    Raises:
        ValueError: The file is missing, or is not a recipe.
    """
    recipe = read_mapping(path, "recipe", data=dict)
    text = path.read_text(encoding="utf-8")
    processes, steps = PROCESSES.search(text), STEPS.search(text)
    return recipe | {
        "num_processes": int(processes[1]) if processes else 1,
        "num_steps": int(steps[1]) if steps else None,
    }


def plain(value: Any) -> Any:
    """Replace tuples by lists, because YAML has no tuples, and absolute paths by relative ones."""
    return map_strings(relative_path, value)
