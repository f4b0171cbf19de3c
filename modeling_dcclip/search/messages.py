"""What `dcclip` tells people, in English or Chinese.

A message is an English template with its values. The catalog zh.json has the Chinese of each template, as gettext's
catalogs have: `translate` looks up the whole template and puts the values into its translation.
"""

import argparse
import json
import locale
import os
import re
import shutil
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

PROGRAM = "dcclip"
LINE_BREAKS = re.compile("[\n\r]")
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\udc80-\udcff]")  # and bytes that are not UTF-8


class Message(str):
    """English text that `translate` can say in Chinese: `Message("top: got {}, expected at least 1.", top)`.

    Args:
        template: English text, with the fields of `str.format` for the values.
        values: Values in the order of the fields. Those that are messages are translated, too.
    """

    template: str
    values: tuple[Any, ...]

    def __new__(cls, template: str, *values: Any) -> "Message":
        """Format the English text, and keep what it was made of."""
        if isinstance(template, Message):
            return template
        message = super().__new__(cls, template.format(*values) if values else template)
        message.template, message.values = template, values
        return message


class UserError(ValueError):
    """An error that a user can mend; its arguments are those of `Message`."""

    def __init__(self, template: str, *values: Any):
        super().__init__(Message(template, *values))


def user_language() -> str:
    """Language of the user's locale, `zh` or `en`, by the rules of gettext."""
    chosen = locale.getlocale()[0] or "C"
    for name in ("LANG", "LC_MESSAGES", "LC_ALL"):  # the last that is set takes precedence
        chosen = os.environ.get(name) or chosen
    if chosen.partition(".")[0] not in ("C", "POSIX"):
        chosen = os.environ.get("LANGUAGE") or chosen
    # Windows: Chinese (Simplified)_China
    return "zh" if chosen.lower().startswith(("zh", "chinese")) else "en"


def translate(message: str, language: str | None = None) -> str:
    """Translate a message. A text that is not in the catalog stays as it is.

    Args:
        message: A `Message`, or English text without values.
        language: `zh` or `en`. Default: the language of the user.
    """
    if (language or user_language()) != "zh":
        return str(message)
    if not isinstance(message, Message) or not message.values:
        return _catalog().get(message, str(message))
    chinese = _catalog().get(message.template, message.template)
    values = []
    for value in message.values:
        values.append(translate(value, "zh") if isinstance(value, Message) else value)
    return chinese.format(*values)


@cache
def _catalog() -> dict[str, str]:
    """The Chinese of each template."""
    return json.loads((Path(__file__).parent / "zh.json").read_text(encoding="utf-8"))


def joined(parts: list[Message]) -> Message:
    """Several messages as one, with commas between them."""
    *others, last = parts
    return Message("{}, {}", joined(others), last) if others else last


def message_of(error: BaseException | str) -> str:
    """The message of an error, which `translate` can translate if the error was raised with a `Message`."""
    if template := getattr(error, "template", None):  # BadRequest of handler.py
        return Message(template, *getattr(error, "values", ()))
    if isinstance(error, OSError) and error.filename is not None:
        text = "file: {!r} cannot be used ({}). Check its name and its permissions."
        return Message(text, os.fsdecode(error.filename), error.strerror)
    if isinstance(error, BaseException) and len(error.args) == 1 and isinstance(error.args[0], str):
        return error.args[0]
    return str(error)


def cause_of(error: BaseException) -> str:
    """Short cause of an error: what the system says, else its message, else its kind."""
    return getattr(error, "strerror", None) or message_of(error) or type(error).__name__


def print_error(template: str, *values: Any):
    """Print a message on stderr, after the name of the program. Arguments are those of `Message`."""
    print(f"{PROGRAM}: {translate(Message(template, *values))}", file=sys.stderr)


def print_note(template: str, *values: Any):
    """Print a note on stderr."""
    print_error("note: {}", Message(template, *values))


def say(template: str, *values: Any):
    """Print a message on stdout."""
    print_line(translate(Message(template, *values)))


def print_line(text: str):
    """Print one line. Paths keep their bytes, UTF-8 or not, but line breaks, and in a terminal all control characters,
    are escaped.
    """
    controls = CONTROLS if sys.stdout.isatty() else LINE_BREAKS
    print(controls.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text))


def print_json(content: Any):
    """Print JSON on one line, with all characters that stdout can take; bytes that are not UTF-8 are escaped."""
    text = json.dumps(content, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(content)
    print(text)


class TranslatedParser(argparse.ArgumentParser):
    """Parser whose help and errors are in the user's language."""

    def __init__(self, **settings: Any):
        # argparse passes its own texts, such as "the following arguments are required: %s", to this function
        setattr(argparse, "_", translate)  # noqa: B010
        width = shutil.get_terminal_size().columns
        if user_language() == "zh":  # a character has two cells
            width = width // 2 + 4
        style = partial(argparse.RawDescriptionHelpFormatter, width=width)
        super().__init__(**settings, allow_abbrev=False, formatter_class=style)
