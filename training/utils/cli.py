"""Command lines: every command builds its options, types and help texts from a dataclass and its docstring."""

import errno
import itertools
import os
import re
import shlex
import sys
import traceback
import types
from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from training.utils.files import names_function

Options = TypeVar("Options")
USER_ERROR, FAILURE, INTERRUPTED = 2, 1, 130  # exit codes
DEBUG_VARIABLE = "DCCLIP_DEBUG"
# the other processes of a run get this error from torch's gloo or NCCL when one has ended
LOST_PROCESS = re.compile(
    r"gloo.*(closed by peer|reset by peer|Broken pipe)|NCCL.*remote process", re.S
)
WORKER_TRACEBACK = "Original Traceback (most recent call last):"

# a value of a recipe may name a class, which jsonargparse imports before it refuses it; its own types are ours
set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=["training.config"])


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
        argv: Command line arguments. Default: `sys.argv`.
        prog: Command as users type it, such as `python training/eval.py`.
        description: Docstring of the command's module. Its first paragraph is printed before the options, the rest
            after them.
        positional: Names of the fields that are given without a flag, in order.

    Returns:
        An instance of `options_class`.

    Raises:
        SystemExit: With code 2 and one line on stderr, if an option is unknown, missing or invalid.
    """
    parser = make_parser(prog, description, "YAML file with options")
    helps, hints = help_texts(options_class), get_type_hints(options_class)
    for option in fields(options_class):  # type: ignore[arg-type]
        _add_option(
            parser, option, hints[option.name], helps[option.name], option.name in positional
        )
    try:
        values = parse_arguments(parser, argv)
        _check_trust(values, " ".join(sys.argv[1:] if argv is None else argv))
        return options_class(**values)
    except ValueError as error:
        exit_with_error(command_name(prog), error, USER_ERROR)


def _check_trust(values: Mapping[str, Any], typed: str):
    """Refuse code that runs because a file of options says so, and not the user."""
    for name, value in values.items():
        if (
            name in ("trust_remote_code", "allow_changed_code")
            and value
            and f"--{name}" not in typed
        ):
            raise ValueError(
                f"{name}: a file of options cannot set this. Add --{name} to the command line."
            )
        for text in value if isinstance(value, list) else [value]:
            if names_function(str(text), typed):
                raise ValueError(
                    f"{name}: {text!r} names a function, which would run. Type it on the command line, or write a "
                    "file as ./FILE."
                )


def make_parser(prog: str, description: str, config_help: str) -> ArgumentParser:
    """Make a parser with the options that every command has, `--config` (with its help) and `--debug`.

    The first paragraph of the description is printed before the options, and the rest after them.
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
    parser.add_argument(
        "--config", action="config", help=f"{config_help}; the command line overrides it."
    )
    parser.add_argument(
        "--debug", action="store_true", help="Show the traceback of an error before its message."
    )
    return parser


def parse_arguments(parser: ArgumentParser, argv: Sequence[str] | None) -> dict[str, Any]:
    """Parse a command line with a parser that `make_parser` returned, and apply `--debug`.

    Returns:
        Values of the further options, by name.

    Raises:
        ValueError: An option is unknown, missing or invalid; the message is one line that names it.
    """
    groups: list[list[str]] = [[]]  # an option and what follows it
    for each in sys.argv[1:] if argv is None else argv:
        groups += [[]] if each.startswith("-") else []
        groups[-1].append(each)
    groups[1:] = sorted(
        groups[1:], key=lambda group: group[0].partition("=")[0] != "--config"
    )  # others override it
    argv = [each for group in groups for each in group]
    _check_config_files(argv)
    # without a slash, a file of a section would be taken for a class to import
    argv = [re.sub(r"^(--[\w.]+=)?(?=[^/=-][^/=]*\.ya?ml$)", r"\g<1>./", each) for each in argv]
    try:
        values = vars(parser.instantiate(parser.parse_args(argv)))
    except (ArgumentError, TypeError) as error:  # TypeError: a section is not a mapping
        raise ValueError(_readable(error)) from error
    values.pop("config")
    if values.pop("debug"):
        os.environ[DEBUG_VARIABLE] = "1"
    return values


def _readable(error: ArgumentError | TypeError) -> str:
    """Error of jsonargparse in the form of our own messages: `field: problem. Next step.`."""
    message = " ".join(str(error).split())
    if isinstance(error, TypeError):
        message = (
            "config: a section such as data, augment, student or eval must be a mapping of fields"
        )
    message = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in message)
    message = re.sub(
        r"^Group '([^']+)' does not accept option '([^']+)'", r"\1: has no field '\2'", message
    )
    message = re.sub(r"^Option '([^']+)' is not accepted", r"config: has no field '\1'", message)
    message = re.sub(r'Parser key "([^"]+)":', r"\1:", message)
    code = r"'\1' would be imported as code, which is not allowed. Write a file as ./FILE"
    message = re.sub(r"Importing '([^']+)' is not allowed.*", code, message)
    hint = 'In YAML, write "no" in quotation marks. ' if "Given value: False" in message else ""
    hint = (
        "Each source is a mapping such as {train: FILE}. "
        if message.startswith("data.sources:")
        else hint
    )
    hint = (
        "For a loss of your own, name its module with --import. " if "_weight'" in message else hint
    )
    return f"{message.replace('typing.', '').rstrip('.')}. {hint}See --help for all options."


def help_texts(options_class: type) -> dict[str, str]:
    """Help text of every field, from the `Args:` sections of a dataclass and its base classes; TypeError without."""
    helps: dict[str, str] = {}
    for base in reversed(options_class.__mro__):
        for entry in parse_docstring(base.__doc__ or "").params:
            helps[entry.arg_name] = " ".join((entry.description or "").split())
    missing = [option.name for option in fields(options_class) if option.name not in helps]
    if missing:
        raise TypeError(
            f"{options_class.__name__}: no Args entry for {', '.join(missing)} in its docstring."
        )
    return helps


def _check_config_files(arguments: Sequence[str]):
    """Check that every file after `--config` is a YAML mapping. jsonargparse's own errors do not name the file."""
    names = [value for flag, value in itertools.pairwise(arguments) if flag == "--config"]
    names += [
        argument.removeprefix("--config=")
        for argument in arguments
        if argument.startswith("--config=")
    ]
    for path in filter(Path.is_file, map(Path, names)):  # jsonargparse names a missing file
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(
                f"config: {str(path)!r} cannot be read as YAML in UTF-8 ({one_line(error)})."
            ) from error
        if not isinstance(content, dict):
            raise ValueError(
                f"config: {str(path)!r} must have lines such as `field: value`, got {content!r:.60}."
            )


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
    """Name that error messages start with: `eval` for `python training/eval.py`, `demo` for `training.demo`."""
    last = shlex.split(prog)[-1]
    return Path(last).stem if last.endswith(".py") else last.rpartition(".")[2]


def exit_with_error(command: str, error: BaseException | str, code: int) -> NoReturn:
    """Print `command: message` as one line on stderr and exit. With `--debug` the traceback comes first."""
    if os.environ.get(DEBUG_VARIABLE) and isinstance(error, BaseException):
        traceback.print_exception(error)
    print(f"{command}: {one_line(error)}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def one_line(error: BaseException | str) -> str:
    """Message of an error as one line, without the traceback that a decoding process adds to it."""
    text = str(error).strip()
    if (
        text.startswith("Caught ") and WORKER_TRACEBACK in text
    ):  # torch's DataLoader wraps the errors of its workers
        last = text.rpartition("\n")[2]
        text = re.sub(r"^[\w.]+: ", "", last)
    return " ".join(text.split()) or type(error).__name__


@contextmanager
def user_errors(command: str, extra: str | None = None) -> Iterator[None]:
    """Report an expected error within the `with` block as one line on stderr.

    The exit code is 2 for what the user can correct (a `ValueError`, a file that cannot be read or written, a missing
    package of the project's `extra`), 1 for a failure of the run (a full disk, a loss that is not finite), and 130
    after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        print(file=sys.stderr)  # below the progress bar
        advice = str(error) or "Complete files are kept. Run the same command again."
        exit_with_error(command, f"interrupted. {advice}", INTERRUPTED)
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").partition(".")[0] in ("training", "modeling_dcclip"):
            raise
        message = f'{error.name} is not installed. Run: pip install -e ".[{extra}]"'
        exit_with_error(command, message, USER_ERROR)
    except ValueError as error:
        exit_with_error(command, error, USER_ERROR)
    except FloatingPointError as error:
        exit_with_error(command, error, FAILURE)
    except RuntimeError as error:
        if LOST_PROCESS.search(str(error)) is None:
            raise
        exit_with_error(
            command, "another process of this run has ended; its own message says why.", FAILURE
        )
    except OSError as error:
        # an error that the system did not number is our own report that a run cannot go on
        is_failure = error.errno in (None, errno.ENOSPC, errno.EDQUOT, errno.EIO)
        exit_with_error(command, error, FAILURE if is_failure else USER_ERROR)


def command_of(program: str, options: Any) -> str:
    """Return the command line that reproduces a run, from a dataclass with the options of the command.

    Options that equal their default are left out, and so are output folders (names that end in `_dir`).
    """
    parts = program.split()
    for option in fields(options):
        value = getattr(options, option.name)
        default = option.default if option.default_factory is MISSING else option.default_factory()
        if value == default or option.name.endswith("_dir"):
            continue
        if isinstance(value, dict):  # as users type it: an option for each key
            parts += [
                word
                for key, item in value.items()
                for word in (f"--{option.name}.{key}", str(item))
            ]
            continue
        values = value if isinstance(value, list) else [] if value is True else [value]
        parts += [f"--{option.name}", *map(str, values)]
    return shlex.join(parts)


def print_ending(written: Mapping[str, str]):
    """Print what a command wrote, by path, in the main process."""
    if os.environ.get("RANK", "0") == "0":
        print("\n".join(["", *(f"  {path}: {meaning}" for path, meaning in written.items())]))


def hide_library_bars():
    """Disable the progress bars of transformers and datasets, because commands show their own. Downloads keep theirs,
    which transformers would switch off too.
    """
    import datasets
    import transformers
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    were_disabled = are_progress_bars_disabled()
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    if not were_disabled:
        enable_progress_bars()
