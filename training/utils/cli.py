"""Command lines: every command takes its options, types and help texts from a dataclass and its docstring.

Argparse reads the command line, and `reading.check_value` checks types and ranges.
"""

import argparse
import errno
import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from docstring_parser import parse as parse_docstring

from training.utils.reading import check_value, parse_yaml, read_mapping
from training.utils.trust import check_no_code, check_no_trust

Options = TypeVar("Options")
# exit codes
USER_ERROR = 2
FAILURE = 1
INTERRUPTED = 130
DEBUG_VARIABLE = "DCCLIP_DEBUG"
# the other processes of a run get this error from torch's gloo or NCCL when one has ended or does not answer
LOST_PROCESS = re.compile(
    r"gloo.*(closed by peer|reset by peer|Broken pipe|Timed out)|NCCL.*(remote process|timed out)",
    re.S,
)
WORKER_TRACEBACK = "Original Traceback (most recent call last):"


def parse_options(
    options_class: type[Options],
    argv: list[str] | None = None,
    *,
    prog: str,
    description: str,
    positional: Sequence[str] = (),
) -> Options:
    """Parse a command line into a dataclass, as `OptionParser` does; a user's mistake ends the process with code 2."""
    try:
        return OptionParser(options_class, prog, description, positional).parse(argv)
    except ValueError as error:
        exit_with_error(command_name(prog), error, USER_ERROR)


class OptionParser(argparse.ArgumentParser):
    """Parser of a command line into a dataclass.

    A list takes several values after one flag, or the flag several times. A boolean is a bare flag, or takes true or
    false. A field of a section is written `--data.train`, a key of a mapping `--columns.zh NAME`. `--config FILE`
    reads options from YAML, where a section may be a file, relative to the YAML file. The command line overrides it;
    a file there replaces the whole section.

    Args:
        options_class: Dataclass whose docstring has an `Args:` entry for every field.
        prog: Command as users type it, such as `python training/eval.py`.
        description: Docstring of the command's module. Its first paragraph is printed before the options, the rest
            after them.
        positional: Names of the fields that are given without a flag, in order.
    """

    def __init__(
        self, options_class: type, prog: str, description: str, positional: Sequence[str] = ()
    ):
        summary, _, examples = description.partition("\n\n")
        super().__init__(
            prog=prog,
            description=" ".join(summary.split()),
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._options_class = options_class
        self._options: dict[str, list[Any]] = {}  # alternatives of the type, by dotted name
        self._mappings: dict[str, Any] = {}  # defaults of the options whose keys are options, too
        self._values: dict[str, Any] = {}
        self.add_argument(
            "--config",
            action="append",
            default=[],
            metavar="FILE",
            help="YAML file with options; the command line overrides it.",
        )
        self.add_argument(
            "--trust_recipe_code",
            action="store_true",
            help="Run functions (module:function) that a YAML file names as data. Check them first.",
        )
        self.add_argument(
            "--debug",
            action="store_true",
            help="Show the traceback of an error before its message.",
        )
        self._add_fields(options_class, positional=positional)

    def error(self, message: str) -> NoReturn:
        """Raise a ValueError, where argparse would print its usage and exit."""
        raise ValueError(f"{message}. See --help for all options.")

    def parse(self, argv: Sequence[str] | None = None) -> Any:
        """Parse a command line.

        Args:
            argv: Arguments. Default: `sys.argv`.

        Returns:
            An instance of the dataclass.

        Raises:
            ValueError: An option is unknown, missing or invalid. The message names it.
        """
        arguments = sys.argv[1:] if argv is None else list(argv)
        for argument in arguments:
            flag = argument.partition("=")[0]
            is_key = flag.rpartition(".")[0].removeprefix("--") in self._mappings
            if is_key and flag not in self._option_string_actions:
                self.add_argument(flag, type=parse_yaml, default=argparse.SUPPRESS)
        typed = vars(self.parse_args(arguments))
        if typed.pop("debug"):
            os.environ[DEBUG_VARIABLE] = "1"
        trusted = typed.pop("trust_recipe_code")
        for file in map(Path, typed.pop("config")):
            content = read_mapping(file, "config")
            check_no_trust(content)
            for name, value in content.items():
                self._set(str(name), value, file.parent)
        for name in sorted(typed):  # a section before its fields
            self._set(name, typed[name], Path())
        values: dict[str, Any] = {}
        for name, value in self._values.items():
            *sections, last = name.split(".")
            target = values
            for section in sections:
                target = target.setdefault(section, {})
            target[last] = value
        if not trusted:
            check_no_code(values, arguments)
        return check_value(self._options_class, values)

    def _add_fields(self, options_class: Any, prefix: str = "", positional: Sequence[str] = ()):
        helps = help_texts(options_class)
        hints = get_type_hints(options_class, include_extras=True)
        group = self.add_argument_group(prefix.rstrip(".") or "options of this command")
        for option in fields(options_class):
            name = f"{prefix}{option.name}"
            kinds = _alternatives(hints[option.name])
            self._options[name] = kinds
            default = _default(option)
            if any(get_origin(kind) is dict for kind in kinds):
                self._mappings[name] = default or {}
            text = helps[option.name]
            if default is MISSING:
                text += " Required."
            elif default not in (None, False, "", []):
                text += f" Default: {default}."
            keywords: dict[str, Any] = {"type": partial(_convert, kinds)}
            if any(kind is list or kind is tuple for kind in map(get_origin, kinds)):
                keywords |= {"nargs": "+", "action": "extend"}
            elif bool in kinds and positional:  # with a value, it would take a positional argument
                keywords = {"action": "store_true"}
            elif bool in kinds:
                keywords |= {"nargs": "?", "const": True}
            flag = option.name if option.name in positional else f"--{name}"
            group.add_argument(
                flag, default=argparse.SUPPRESS, help=text.replace("%", "%%"), **keywords
            )
            for kind in kinds:
                if is_dataclass(kind):
                    self._add_fields(kind, f"{name}.")

    def _set(self, name: str, value: Any, folder: Path):
        """Set an option, the fields of a section, or a key of a mapping.

        Args:
            name: Dotted name.
            value: Value from a file or the command line.
            folder: Folder that the file of a section is relative to.
        """
        kinds = self._options.get(name, [])
        parent, _, key = name.rpartition(".")
        if parent in self._mappings:
            mapping = self._values.get(parent) or self._mappings[parent]
            self._values[parent] = mapping | {key: value}
        elif not kinds:
            raise ValueError(f"{name}: is not an option. See --help for all options.")
        elif not any(map(is_dataclass, kinds)):
            is_one = isinstance(value, list) and len(value) == 1
            takes_one = is_one and (isinstance(value[0], list) or str in kinds)
            self._values[name] = value[0] if takes_one else value
        else:
            if isinstance(value, str):
                file = folder / value
                value = read_mapping(file, name)
                folder = file.parent
                # a file is the whole section: nothing of an earlier file stays
                earlier = [option for option in self._values if option.startswith(f"{name}.")]
                for each in earlier:
                    del self._values[each]
            if not isinstance(value, dict):
                raise ValueError(f"{name}: expected fields with values or a file, got {value!r}.")
            for field, item in value.items():
                self._set(f"{name}.{field}", item, folder)


def _alternatives(hint: Any) -> list[Any]:
    """Types of a union, without their ranges."""
    if get_origin(hint) is Annotated:
        return _alternatives(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return [kind for each in get_args(hint) for kind in _alternatives(each)]
    return [hint]


def _convert(kinds: Sequence[Any], text: str) -> Any:
    """Value of an argument: a string where the types have strings, else YAML."""
    items: list[Any] = []
    for kind in kinds:
        if get_origin(kind) in (list, tuple):
            items += get_args(kind)
    is_list = items and text.startswith("[") and text.endswith("]")
    is_none = NoneType in kinds and text == "null"
    takes_text = any(kind is str or get_origin(kind) is Literal for kind in [*kinds, *items])
    if takes_text and not is_list and not is_none:
        return text
    return parse_yaml(text)


def _default(option: Field) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()


def help_texts(options_class: type) -> dict[str, str]:
    """Help text of every field, from the `Args:` sections of a dataclass and its base classes."""
    helps: dict[str, str] = {}
    for base in reversed(options_class.__mro__):
        for entry in parse_docstring(base.__doc__ or "").params:
            helps[entry.arg_name] = " ".join((entry.description or "").split())
    return helps


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
    # torch's DataLoader wraps the errors of its workers
    if text.startswith("Caught ") and WORKER_TRACEBACK in text:
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
        message = (
            "another process of this run has ended or does not answer; its own message says why."
        )
        exit_with_error(command, message, FAILURE)
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
        if value == _default(option) or option.name.endswith("_dir"):
            continue
        if isinstance(value, dict):  # as users type it: an option for each key
            for key, item in value.items():
                parts += [f"--{option.name}.{key}", str(item)]
            continue
        parts.append(f"--{option.name}")
        if isinstance(value, list):
            parts += map(str, value)
        elif value is not True:
            parts.append(str(value))
    return shlex.join(parts)


def print_ending(written: Mapping[str, str]):
    """Print what a command wrote, by path, in the main process."""
    if os.environ.get("RANK", "0") == "0":
        print()
        for path, meaning in written.items():
            print(f"  {path}: {meaning}")


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
