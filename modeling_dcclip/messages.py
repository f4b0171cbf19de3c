"""What `dcclip` tells people, in English or Chinese.

The code has the English messages, as ordinary f-strings. The table zh.json has their Chinese: a key is an English
message with `{}` for each value. Values that are messages themselves, such as a cause, are translated as well.
"""

import argparse
import json
import locale
import os
import re
import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import NoReturn

MAX_LENGTH = 1000  # matching takes time that grows with the cube of the length
VALUE = r"""('[^']*'|"[^"]*"|.*?)"""  # a quoted one, such as a path, stays whole


def user_language() -> str:
    """Language of the user's locale, `zh` or `en`, by the rules of gettext."""
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    chosen = next(filter(None, names), locale.getlocale()[0] or "C")
    if chosen.partition(".")[0] not in ("C", "POSIX"):
        chosen = os.environ.get("LANGUAGE") or chosen
    return (
        "zh" if chosen.lower().startswith(("zh", "chinese")) else "en"
    )  # Windows: Chinese (Simplified)_China


def translate(message: str, language: str | None = None) -> str:
    """Translate a message. It stays as it is if the table has none that fits.

    Args:
        message: English message.
        language: `zh` or `en`. Default: the language of the user.
    """
    if (language or user_language()) != "zh" or len(message) > MAX_LENGTH:
        return message
    for pieces, chinese in _table():
        if all(piece in message for piece in pieces):
            found = re.fullmatch(VALUE.join(map(re.escape, pieces)), message, re.DOTALL)
            if found is not None:
                return chinese.format(*(translate(value, language) for value in found.groups()))
    return message


@cache
def _table() -> list[tuple[list[str], str]]:
    """The parts of each English message around its values, and the Chinese; the most specific first."""
    table = json.loads((Path(__file__).parent / "zh.json").read_text(encoding="utf-8"))
    return [
        (key.split("{}"), table[key])
        for key in sorted(table, key=lambda key: -len(key.replace("{}", "")))
    ]


class TranslatedParser(argparse.ArgumentParser):
    """Parser whose help and errors are in the user's language. Descriptions and epilogs keep their lines."""

    def __init__(self, **options):
        super().__init__(**options, allow_abbrev=False, formatter_class=_TranslatedHelp)

    def error(self, message: str) -> NoReturn:
        """Print the usage and an error, and exit with code 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {translate(f'error: {message}')}\n")


class _TranslatedHelp(argparse.RawDescriptionHelpFormatter):
    def add_usage(self, usage, actions, groups, prefix=None):
        super().add_usage(
            usage, actions, groups, translate("usage: ") if prefix is None else prefix
        )

    def start_section(self, heading):
        super().start_section(translate(heading or ""))

    def add_text(self, text):
        super().add_text(translate(text) if text else text)

    def _get_help_string(self, action):
        return translate(action.help or "")

    def _split_lines(self, text, width):
        """Lines of a width in cells: a Chinese character has two, and may be the last of its line."""
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
