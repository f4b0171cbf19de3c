"""The command line of both stages: import extensions, parse a recipe, run it."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Any, TypeVar

from training.config import CONFIGS, DistillRecipe, TrainingRecipe, parse_recipe
from training.utils.cli import command_name, hide_library_bars, user_errors
from training.utils.files import REPO_ROOT
from training.utils.ranges import Weight

Recipe = TypeVar("Recipe", bound=TrainingRecipe)


def run_script(
    recipe_class: type[Recipe],
    run: Callable[[Recipe], Any],
    argv: list[str] | None,
    prog: str,
    description: str | None,
) -> Recipe:
    """Parse the command line of a training script, and run its recipe. Without options, it runs the demo's recipe.

    Args:
        recipe_class: `DistillRecipe` or `AlignRecipe`.
        run: Function that trains.
        argv: Arguments; None takes `sys.argv`.
        prog: Command as users type it.
        description: Docstring of the script, for `--help`.

    Returns:
        The recipe that has been trained.

    Raises:
        SystemExit: The recipe cannot be used, or training failed. One line on stderr says why.
    """
    command = command_name(prog)
    with user_errors(command, extra="train"):
        arguments = sys.argv[1:] if argv is None else argv
        if not arguments:
            if not Path.cwd().samefile(REPO_ROOT):
                raise ValueError(
                    "config: got no options, and the demo runs in the checkout alone. Run it in "
                    f"{str(REPO_ROOT)!r}, or name a recipe: --config RECIPE.yaml."
                )
            arguments = ["--config", str(CONFIGS / f"demo_{command}.yaml")]
            print(
                f"{command}: no options, so this trains the demo: {' '.join(arguments)}", flush=True
            )
        # a user's modules; `python training/X.py` has the script's folder alone
        sys.path.append(os.getcwd())
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--import", dest="modules", nargs="+", action="extend", default=[])
        extensions, arguments = parser.parse_known_args(arguments)
        if extensions.modules:
            recipe_class = with_extensions(recipe_class, extensions.modules)
        recipe = parse_recipe(recipe_class, arguments, prog, description)
        hide_library_bars()
        run(recipe)
    return recipe


def with_extensions(recipe_class: type[Recipe], modules: list[str]) -> type[Recipe]:
    """Import modules that register losses or teacher families.

    Args:
        recipe_class: `DistillRecipe` or `AlignRecipe`.
        modules: Names of modules that Python can import, also from the working directory.

    Returns:
        The recipe class with a field for the weight of each loss that has none.

    Raises:
        ValueError: A module cannot be imported.
    """
    from training.tasks.align import LOSSES
    from training.tasks.distill import DISTILL_LOSSES

    for name in modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # any code may run
            raise ValueError(
                f"import: {name!r} cannot be imported ({type(error).__name__}: {error}). Name a Python module of the "
                "environment or of the working directory."
            ) from error
    table: list[Any] = DISTILL_LOSSES if issubclass(recipe_class, DistillRecipe) else LOSSES
    known = {field.name for field in fields(recipe_class)}
    missing = dict.fromkeys(loss.weight for loss in table if loss.weight not in known)
    entries = "\n".join(
        f"    {name}: Weight of a loss of {', '.join(modules)}." for name in missing
    )
    return make_dataclass(
        recipe_class.__name__,
        [(name, Weight, 0.0) for name in missing],
        bases=(recipe_class,),
        namespace={"__doc__": f"{recipe_class.__doc__}\n\nArgs:\n{entries}"},
        frozen=True,
        kw_only=True,
    )
