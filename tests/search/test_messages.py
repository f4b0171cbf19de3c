"""Messages in the user's language: the catalog has the templates of the code, and their values."""

import ast
import json
import pickle
import re
import string
from pathlib import Path

import pytest

import modeling_dcclip
from modeling_dcclip.search import command
from modeling_dcclip.search.messages import (
    Message,
    UserError,
    joined,
    message_of,
    translate,
    user_language,
)

PACKAGE = Path(modeling_dcclip.__file__).parent
SOURCES = [PACKAGE / "handler.py", *(PACKAGE / "search").rglob("*.py")]
CATALOG = json.loads((PACKAGE / "search" / "zh.json").read_text(encoding="utf-8"))
# functions and errors whose text people read
SPEAKERS = {
    "Message",
    "translate",
    "say",
    "print_note",
    "print_error",
    "send_failure",
    "UserError",
    "ValueError",
    "OSError",
    "BadRequest",
    "UnreadablePhotoError",
    "DamagedIndexError",
    "damage",
}
# texts of argparse, SQLite and the operating system
FOREIGN = re.compile(
    r"^[A-Z][a-z]+ |%|usage: |arguments?$|options|help message|database|[Ii]nput|disk I|-only|regular"
)
WORDS = re.compile("[a-z]{3}")


def spoken(tree):
    """The texts that a module passes to its speakers, and its help texts."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
        texts = [*node.args] if name in SPEAKERS else []
        texts += [keyword.value for keyword in node.keywords if keyword.arg == "help"]
        for text in texts:
            for part in [text.body, text.orelse] if isinstance(text, ast.IfExp) else [text]:
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


MESSAGES = {
    text
    for path in SOURCES
    for text in spoken(ast.parse(path.read_text(encoding="utf-8")))
    if WORDS.search(text)
}


def test_every_message_has_its_chinese():
    assert not MESSAGES - {*CATALOG}, "add their Chinese to modeling_dcclip/search/zh.json"


def test_every_entry_is_a_text_of_the_code():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]
    constants = {
        node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)
    }
    constants.add(command.__doc__.partition("\n")[0])
    assert not [entry for entry in {*CATALOG} - constants if not FOREIGN.search(entry)]


def fields(template):
    """What is put into a template, such as `{:,}` and `%(value)r`."""
    found = [str(each[1:]) for each in string.Formatter().parse(template) if each[1] is not None]
    return sorted(found + re.findall(r"%(?:\(\w+\))?[sr]", template))


@pytest.mark.parametrize("template", CATALOG)
def test_a_translation_keeps_the_values_and_is_chinese(template):
    chinese = CATALOG[template]
    assert fields(template) == fields(chinese)
    assert re.search("[\u3001-\u9fff\uff01-\uff5e]", chinese)


def test_braces_in_values_and_in_other_texts_stay():
    assert translate(Message("{} removed", "{} {0}"), "zh") == "移除 {} {0}"
    assert translate("a file named {0} and {}", "zh") == "a file named {0} and {}"


def test_parts_are_joined_as_the_language_does():
    message = joined([Message("{:,} unchanged", 1234), Message("{:,} moved", 2)])
    assert message == "1,234 unchanged, 2 moved"
    assert translate(message, "zh") == "未改动 1,234 张，移动 2 个"


def test_a_message_survives_its_way_to_another_process():
    copy = pickle.loads(pickle.dumps(UserError("{} removed", "{}")))
    assert translate(message_of(copy), "zh") == "移除 {}"


def test_the_message_of_an_error_can_be_translated():
    error = UserError("top: got {}, expected at least 1.", 0)
    assert isinstance(message_of(error), Message)
    missing = message_of(FileNotFoundError(2, "No such file", "a"))
    assert missing == "file: 'a' cannot be used (No such file). Check its name and its permissions."


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LC_MESSAGES": "zh_CN.UTF-8", "LANG": "en_US.UTF-8"}, "zh"),
        ({"LC_ALL": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, "en"),
        ({"LANG": "POSIX", "LANGUAGE": "zh_CN"}, "en"),
        ({"LANG": "", "LANGUAGE": "zh_CN"}, "en"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh"),
        ({"locale": "zh_CN"}, "zh"),
        ({"locale": "Chinese (Simplified)_China"}, "zh"),
        ({"locale": "zh_CN", "LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_TW.UTF-8", "LANGUAGE": "en_US:en"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8", "LANGUAGE": "zh_CN:zh"}, "en"),
        ({}, "en"),
    ],
)
def test_the_language_is_the_locale_of_the_user(monkeypatch, environment, language):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG", "LANGUAGE"):
        monkeypatch.delenv(name, raising=False)
    of_system = environment.get("locale")
    monkeypatch.setattr("locale.getlocale", lambda: (of_system, None))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert user_language() == language


@pytest.mark.parametrize("name", ["", *command.COMMANDS])
def test_help_is_chinese_and_fits_the_terminal(monkeypatch, capsys, name):
    for variable, value in {"LC_ALL": "zh_CN.UTF-8", "LANGUAGE": "zh_CN", "COLUMNS": "80"}.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit):
        command.main([*filter(None, [name]), "--help"])
    printed = capsys.readouterr().out
    text = " ".join(printed.partition("dcclip ~/Photos\n")[0].split())
    assert "用法：dcclip" in text
    assert not re.search(r"[a-z]{2,} [a-z]{2,} [a-z]{2,}", text)
    assert max(len(line.encode("gbk")) for line in printed.splitlines()) <= 80
