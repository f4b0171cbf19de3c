"""Command lines."""

import shlex
from dataclasses import MISSING, fields
from typing import Any


def command_of(program: str, options: Any) -> str:
    """The command line that gives these options: those that differ from their defaults, but not where results go.

    Args:
        program: such as `python -m training.demo`.
        options: a dataclass whose fields are the program's options; those without a default are always written.
    """
    parts = program.split()
    for option in fields(options):
        value = getattr(options, option.name)
        default = option.default if option.default_factory is MISSING else option.default_factory()
        if value == default or option.name.endswith("_dir"):
            continue
        values = value if isinstance(value, list) else [] if value is True else [value]
        parts += [f"--{option.name}", *map(str, values)]
    return shlex.join(parts)
