"""What `dcclip` tells people, in English or Chinese.

A message is an English template with its values. The catalog zh.json has the Chinese of each template, as gettext's
catalogs have: `translate` looks up the whole template and puts the values into its translation.
"""

import argparse
import codecs
import json
import locale
import os
import re
import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any, TextIO

PROGRAM = "dcclip"
CONTROLS = ("Cc", "Cs")  # Unicode categories: control characters, and bytes that are not UTF-8


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

    def __getnewargs__(self):
        """Arguments that a copy in another process is made with."""
        return self.template, *self.values


def user_language() -> str:
    """Language of the user's locale, `zh` or `en`, by the rules of gettext."""
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    chosen = next(filter(None, names), locale.getlocale()[0] or "C")
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
    return chinese.format(
        *(translate(each, "zh") if isinstance(each, Message) else each for each in message.values)
    )


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
    if isinstance(error, BaseException) and len(error.args) == 1 and isinstance(error.args[0], str):
        return error.args[0]
    return str(error)


def is_utf8(stream: TextIO) -> bool:
    """Whether a stream can print every character; on Windows a file or a pipe often cannot."""
    return codecs.lookup(stream.encoding or "ascii").name == "utf-8"


def print_error(message: str):
    """Print a message on stderr, after the name of the program."""
    print(f"{PROGRAM}: {translate(message)}", file=sys.stderr)


def print_note(message: str):
    """Print a note on stderr."""
    print_error(Message("note: {}", message))


def say(message: str):
    """Print a message on stdout."""
    print_line(translate(message))


def print_line(text: str):
    """Print one line. Paths keep their bytes, UTF-8 or not, but line breaks, and in a terminal all control characters,
    are escaped.
    """
    controls = CONTROLS if sys.stdout.isatty() else ()
    text = "".join(
        f"\\x{ord(each) & 0xFF:02x}"
        if each in "\n\r" or unicodedata.category(each) in controls
        else each
        for each in text
    )
    if is_utf8(sys.stdout):
        sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # a text file, here and under test
    print(text)


def print_json(content: Any) -> None:
    """Print JSON; bytes of a path that are not UTF-8 become escapes, which JSON readers turn into surrogates."""
    if is_utf8(sys.stdout):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a text file, here and under test
    print(json.dumps(content, ensure_ascii=not is_utf8(sys.stdout)))


class TranslatedParser(argparse.ArgumentParser):
    """Parser whose help and errors are in the user's language."""

    def __init__(self, **settings: Any):
        # argparse passes its own texts, such as "the following arguments are required: %s", to this function
        setattr(argparse, "_", translate)  # noqa: B010
        super().__init__(**settings, allow_abbrev=False, formatter_class=_TranslatedHelp)


class _TranslatedHelp(argparse.RawDescriptionHelpFormatter):
    """Help whose lines have a width in cells: a Chinese character has two, and may be the last of its line."""

    def _split_lines(self, text, width):
        if text.isascii():
            return super()._split_lines(text, width)
        lines, used = [""], 0
        for part in re.findall(r"[!-~]+ ?|.", text):  # words of ASCII stay whole
            cells = sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in part)
            if used + cells > width and part not in "，。；：、）":
                lines.append("")
                used = 0
            lines[-1] += part
            used += cells
        return lines
