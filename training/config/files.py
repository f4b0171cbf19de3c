"""Read a recipe from YAML and the command line, and save it."""

import re
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from training.config.recipes import TrainingRecipe
from training.utils.cli import (
    USER_ERROR,
    command_name,
    exit_with_error,
    help_texts,
    make_parser,
    parse_arguments,
)
from training.utils.files import names_function, read_mapping, relative_path

RECIPE_FILE = "recipe.yaml"
CONFIGS = Path(__file__).parents[1] / "configs"
# fields that apply to one start of a run, and are not saved
OF_ONE_START = ("resume", "overwrite")
# comments in a saved recipe, not fields: Accelerate sets the processes, and a checkpoint has fewer steps
PROCESSES = re.compile(r"^# number of processes: (\d+)$", re.MULTILINE)
STEPS = re.compile(r"^# number of steps done: (\d+)$", re.MULTILINE)

Recipe = TypeVar("Recipe", bound=TrainingRecipe)


def parse_recipe(
    recipe_class: type[Recipe], argv: list[str] | None = None, prog: str = "recipe"
) -> Recipe:
    """Parse a command line into a recipe as `recipe_from_args` does; a user's mistake ends the process with code 2."""
    try:
        return recipe_from_args(recipe_class, argv, prog)
    except ValueError as error:
        exit_with_error(command_name(prog), error, USER_ERROR)


def recipe_from_args(
    recipe_class: type[Recipe],
    argv: list[str] | None = None,
    prog: str = "recipe",
    description: str | None = None,
) -> Recipe:
    """Parse a command line into a recipe.

    `--config FILE` reads YAML; arguments on the command line override it. Nested fields are written `--data.train`. A
    boolean that is false by default is also a bare flag: `--resume`.

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
    parser = make_parser(prog, description or summary, "Recipe in YAML")
    parser.add_argument(
        "--trust_recipe_code",
        action="store_true",
        help="Run functions (module:function) that the recipe file names as data. Check them first.",
    )
    parser.add_argument(
        "--import",
        help="Python modules that register losses or teacher families.",
        metavar="MODULE ...",
    )
    flags = [
        option.name
        for option in fields(recipe_class)
        if option.type is bool and option.default is False
    ]
    parser.add_class_arguments(recipe_class, skip=set(flags), sub_configs=True)
    helps = help_texts(recipe_class)
    for name in flags:
        parser.add_argument(
            f"--{name}", nargs="?", const=True, default=False, type=bool, help=helps[name]
        )
    values = parse_arguments(parser, argv)
    arguments = sys.argv[1:] if argv is None else argv
    values.pop("trust_recipe_code")  # a file may not trust itself
    if values.pop("import") is not None:
        raise ValueError(
            "import: a recipe file cannot run code. Name the modules on the command line."
        )
    recipe = recipe_class(**values)
    if "--trust_recipe_code" not in arguments:
        _check_code(recipe, arguments)
    return recipe


def _check_code(recipe: TrainingRecipe, argv: list[str]):
    """Refuse data functions that a recipe file names and the user did not type."""
    typed = " ".join(argv)
    for field, name in recipe.sources():
        if names_function(name, typed):
            raise ValueError(
                f"{field}: {name!r} in the recipe is a function, and loading the data would run it. Check that you "
                "trust it, and add --trust_recipe_code."
            )


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
    if isinstance(value, str):
        return relative_path(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
