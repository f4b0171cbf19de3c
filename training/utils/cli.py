"""Command lines: every command builds its options, types and help texts from a dataclass and its docstring."""

import shlex
import sys
import types
from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

Options = TypeVar("Options")


def parse_options(
    options_class: type[Options],
    argv: list[str] | None = None,
    *,
    prog: str,
    description: str,
    positional: Sequence[str] = (),
) -> Options:
    """Parse a command line into a dataclass. Types, defaults and help texts come from the dataclass.

    A list takes several values after one flag, or the flag several times. A boolean that is false by default is a bare
    flag. `--config FILE` reads options from YAML; the command line overrides it.

    Args:
        options_class: Dataclass whose docstring has an `Args:` entry for every field.
        argv: Command line arguments. Default: those of the process.
        prog: Command as users type it, such as `python training/eval.py`.
        description: Docstring of the command's module. Its first paragraph is printed before the options, the rest
            after them.
        positional: Names of the fields that are given without a flag, in order.

    Returns:
        An instance of `options_class`.

    Raises:
        SystemExit: With code 2 and one line on stderr, if an option is unknown, missing or invalid.
    """
    summary, _, examples = description.partition("\n\n")
    parser = ArgumentParser(
        prog=prog,
        description=" ".join(summary.split()),
        epilog=examples,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with options; the command line overrides it")
    helps = help_texts(options_class)
    hints = get_type_hints(options_class)
    for option in fields(options_class):  # type: ignore[arg-type]
        _add_option(parser, option, hints[option.name], helps[option.name], option.name in positional)
    try:
        values = vars(parser.instantiate(parser.parse_args(argv)))
        values.pop("config")
        return options_class(**values)
    except (ArgumentError, ValueError) as error:
        exit_with_usage_error(command_name(prog), error)


def help_texts(options_class: type) -> dict[str, str]:
    """Return the help text of every field, from the `Args:` sections of the class and its base classes.

    Args:
        options_class: Dataclass with Google-style docstrings.

    Raises:
        TypeError: If a field has no `Args:` entry.
    """
    helps: dict[str, str] = {}
    for base in reversed(options_class.__mro__):
        for entry in parse_docstring(base.__doc__ or "").params:
            helps[entry.arg_name] = " ".join((entry.description or "").split())
    missing = [option.name for option in fields(options_class) if option.name not in helps]
    if missing:
        raise TypeError(f"{options_class.__name__}: no Args entry for {', '.join(missing)} in its docstring.")
    return helps


class _Collect(Action):
    """Action of a list option. The command line replaces the list of a YAML file; a repeated flag extends the list."""

    def __init__(self, *arguments: Any, **keywords: Any):
        super().__init__(*arguments, **keywords)
        self.is_given = False

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None):
        earlier = getattr(namespace, self.dest) if self.is_given else []
        self.is_given = True
        setattr(namespace, self.dest, [*earlier, *values])


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the line breaks of example commands."""


def _add_option(parser: ArgumentParser, option: Field, hint: Any, text: str, is_positional: bool):
    default = option.default if option.default_factory is MISSING else option.default_factory()
    required = default is MISSING
    name = option.name if is_positional else f"--{option.name}"
    if hint is bool and default is False:
        parser.add_argument(name, action="store_true", help=text)
        return
    keywords: dict[str, Any] = {"help": text}
    if (item := _list_item(hint)) is None:
        keywords |= {"type": hint} | ({} if required else {"default": default})
    else:
        keywords |= _item_type(item) | {"nargs": "+", "action": _Collect}
        if not required:
            shown = " ".join(map(str, default)) if isinstance(default, list) and default else "none"
            keywords |= {"default": SUPPRESS, "help": f"{text} (default: {shown})"}
    if required and not is_positional:
        keywords["required"] = True
    parser.add_argument(name, **keywords)


def _list_item(hint: Any) -> Any:
    """Return T of `list[T]` or `list[T] | None`; None for any other type."""
    if get_origin(hint) in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        return _list_item(options[0]) if len(options) == 1 else None
    return get_args(hint)[0] if get_origin(hint) is list else None


def _item_type(item: Any) -> dict[str, Any]:
    if get_origin(item) is Literal:
        return {"choices": list(get_args(item)), "type": type(get_args(item)[0])}
    return {"type": item}


def command_name(prog: str) -> str:
    """Return the name that error messages start with.

    It is `eval` for `python training/eval.py`, and `demo` for `python -m training.demo`.
    """
    last = shlex.split(prog)[-1]
    return Path(last).stem if last.endswith(".py") else last.rpartition(".")[2]


def exit_with_usage_error(command: str, error: Exception | str) -> NoReturn:
    """Print `command: message` on stderr and exit with code 2.

    Args:
        command: Name of the command, as `command_name` returns it.
        error: Message, or an exception that holds it.
    """
    print(f"{command}: {error}", file=sys.stderr)
    raise SystemExit(2)


@contextmanager
def user_errors(command: str, extra: str | None = None) -> Iterator[None]:
    """Report a `ValueError` within the `with` block as one line on stderr, and exit with code 2.

    A missing package is reported in the same way, with the command that installs it.

    Args:
        command: Name of the command, as `command_name` returns it.
        extra: Extra of this project that installs the packages of the command. Default: a missing package is not
            caught.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").partition(".")[0] in ("training", "modeling_dcclip"):
            raise
        exit_with_usage_error(command, f'{error.name} is not installed. Run: pip install -e ".[{extra}]"')
    except ValueError as error:
        exit_with_usage_error(command, error)


def command_of(program: str, options: Any) -> str:
    """Return the command line that reproduces a run.

    Options that equal their default are left out, and so are output folders (names that end in `_dir`).

    Args:
        program: Command, such as `python -m training.demo`.
        options: Dataclass instance whose fields are the options of the command. Required fields are always written.
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
