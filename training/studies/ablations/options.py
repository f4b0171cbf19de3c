"""Options of the ablation commands."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from training.utils.cli import command_name, parse_options, user_errors
from training.utils.files import holds_files


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """What to run.

    Args:
        seeds: Training seeds; every arm is trained with each of them.
        every: Keep only each `every`-th concept of the corpus, for a quick try.
        output_dir: Scratch folder for the training runs; it must be new or empty, and is deleted at the end.
        results_dir: Folder for the numbers (JSON) and their plot (PNG).
    """

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    every: int = 1
    output_dir: str
    results_dir: str = "runs/ablations"


@dataclass(frozen=True, kw_only=True)
class Stage1Options(ComparisonOptions):
    """What to run.

    Args:
        steps: Optimizer steps of every arm, over both stages.
    """

    steps: int = 80
    output_dir: str = "runs/ablations/stage1"


@dataclass(frozen=True, kw_only=True)
class Stage2Options(ComparisonOptions):
    """What to run.

    Args:
        distil_steps: Optimizer steps of stage 1, which runs once per seed.
        align_steps: Optimizer steps of stage 2 in every arm.
    """

    distil_steps: int = 240
    align_steps: int = 80
    output_dir: str = "runs/ablations/stage2"


@dataclass(frozen=True, kw_only=True)
class PairsOptions(Stage2Options):
    """What to run."""

    output_dir: str = "runs/ablations/pairs"


Options = TypeVar("Options", bound=ComparisonOptions)


def parse_comparison(options_class: type[Options], argv: list[str] | None, prog: str, description: str) -> Options:
    """Parse the options of a comparison, and refuse a scratch folder with files.

    Args:
        options_class: Class of the options.
        argv: Arguments; None reads those of the process.
        prog: Command as users type it.
        description: Module docstring of the command.

    Raises:
        SystemExit: With code 2 and one line on stderr, if an option is invalid or the folder is not empty.
    """
    options = parse_options(options_class, argv, prog=prog, description=description)
    with user_errors(command_name(prog)):
        if holds_files(Path(options.output_dir)):
            raise ValueError(
                f"output_dir: {options.output_dir!r} is not empty, and it is deleted at the end. Name a new folder."
            )
    return options
