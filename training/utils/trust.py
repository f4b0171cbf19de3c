"""What may run code of others: only what the user has typed, never what a file says."""

import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # module:function, which returns data
HARMLESS = ("training.experiments.corpus.",)  # functions that return the data sets of this project
TRUST_OPTIONS = ("trust_remote_code", "allow_changed_code", "trust_recipe_code")


def check_no_trust(content: Mapping[str, Any]):
    """Refuse a file of options that trusts code itself.

    Raises:
        ValueError: The file sets one of `TRUST_OPTIONS`.
    """
    for name in TRUST_OPTIONS:
        if content.get(name):
            raise ValueError(
                f"{name}: a file of options cannot set this. Add --{name} to the command line."
            )


def check_no_code(values: Mapping[str, Any], arguments: Sequence[str]):
    """Refuse data that is a function, unless it is ours or the user has typed its name.

    Args:
        values: Options by name, from files and the command line.
        arguments: The command line.

    Raises:
        ValueError: A value is `module:function` or `NAME=module:function`.
    """
    typed = " ".join(arguments)
    for name, text in _strings(values):
        found = FUNCTION.match(text.rpartition("=")[2])
        if found is not None and found[0] not in typed and not found[0].startswith(HARMLESS):
            raise ValueError(
                f"{name}: {text!r} names a function, which would run. Check that you trust it, and add "
                "--trust_recipe_code, or write a file as ./FILE."
            )


def call_function(name: str) -> Any:
    """Result of `module:function`, whose module is installed or in the working directory."""
    module, function = name.split(":")
    sys.path.append(os.getcwd())  # which `python training/X.py` leaves out
    return getattr(importlib.import_module(module), function)()


def _strings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """All strings in options, each with the dotted name of its option."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(item, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, name)
