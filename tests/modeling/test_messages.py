"""Messages in the user's language: the table has all that the code tells people, and nothing else."""

import argparse
import ast
import errno
import inspect
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import modeling_dcclip
from modeling_dcclip import command
from modeling_dcclip.messages import translate, user_language

PACKAGE = Path(modeling_dcclip.__file__).parent
SOURCES = [
    PACKAGE / name for name in ("command.py", "messages.py", "runtime_dcclip.py", "image_dcclip.py")
]
SOURCES += sorted(
    {*(PACKAGE / "search").glob("*.py")} - {PACKAGE / "search" / "api.py"}
)  # which programs read
TABLE: dict[str, str] = json.loads((PACKAGE / "zh.json").read_text(encoding="utf-8"))
SPEAKERS = {
    "translate",
    "_say",
    "print_note",
    "warn",
    "UnreadablePhotoError",
}  # functions whose text people read
SENTENCE = re.compile(r"[a-z]{2,}[,:;.)]? [a-z(]|\{\} [a-z]{3}|[a-z]{3} \{\}")
CODE = re.compile(
    r"\b(max-age|SELECT|INSERT|DELETE|CREATE|UPDATE|DROP|BEGIN|JOIN)\b| [<>]?= \?| > \?"
)
UNSEEN = {"no preview", "not a preview"}  # other causes take their place
SYSTEM = {
    os.strerror(code) for code in (errno.EACCES, errno.ENOENT, errno.EADDRINUSE, errno.ENOSPC)
}
SYSTEM |= {"Input/output error", "Stale file handle", "Read-only file system", "Cannot assign requested address",
           "File exists", "Not a directory", "Too many open files"}  # fmt: skip
SYSTEM |= {"attempt to write a readonly database", "database or disk is full", "database disk image is malformed",
           "disk I/O error", "Name or service not known"}  # fmt: skip
SYSTEM |= {"invalid int value: {}", "invalid float value: {}"}  # of argparse


def strings(node: ast.AST) -> Iterator[str]:
    """Every string below a node, without docstrings; `{}` stands for the values of f-strings."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(
            part.value if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
        for part in node.values:
            yield from strings(part) if isinstance(part, ast.FormattedValue) else ()
    elif isinstance(node, ast.Subscript):
        yield from strings(node.value)
    elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        for child in ast.iter_child_nodes(node):
            yield from strings(child)


def spoken(tree: ast.Module) -> Iterator[str]:
    """Every string of a module that people read."""
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):  # constants are SQL and patterns
            yield from (
                text
                for text in strings(statement)
                if SENTENCE.search(text) and not CODE.search(text)
            )
    for node in ast.walk(tree):
        name = getattr(getattr(node, "func", None), "id", None) or getattr(
            getattr(node, "func", None), "attr", None
        )
        if isinstance(node, ast.Call) and name in SPEAKERS:
            texts = (text for argument in node.args for text in strings(argument))
            yield from (text for text in texts if re.search("[a-z]{3}", text))


def trees() -> list[ast.Module]:
    return [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]


def test_every_message_has_its_chinese():
    missing = {text for tree in trees() for text in spoken(tree)} - {*TABLE} - UNSEEN
    assert not missing, "add their Chinese to modeling_dcclip/zh.json"


def test_every_entry_of_the_table_is_a_message_and_keeps_its_values():
    known = {text for tree in trees() for text in strings(tree)} | SYSTEM
    known |= {
        re.sub(r"%(\(\w+\))?[sr]", "{}", text)
        for text in strings(ast.parse(inspect.getsource(argparse)))
    }
    assert {*TABLE} - known == {command.__doc__.partition("\n")[0]}
    for english, chinese in TABLE.items():
        assert english.count("{}") == chinese.count("{}") and re.search(
            "[\u3001-\u9fff\uff01-\uff5e]", chinese
        ), english


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("top: got 0, expected at least 1.", "top: 值为 0，至少应为 1。"),
        ("error: argument --top: invalid int value: 'x'", "错误：参数 --top：不是整数：'x'"),
        (
            "index: cannot use '/a (b)/c' (Permission denied). Free some space or check the disk.",
            "index: 无法使用 '/a (b)/c'（没有权限）。请清出一些空间，或检查磁盘。",
        ),
        ("1 file removed", "移除 1 个文件"),
        ("a file named {0} and {}", "a file named {0} and {}"),
    ],
)
def test_values_stay_and_messages_in_messages_are_translated(english, chinese):
    assert translate(english, "zh") == chinese and translate(english, "en") == english


def test_a_long_message_is_not_matched():
    long = f"top: got {'9' * 1000}, expected at least 1."
    assert translate(long, "zh") == long


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW.UTF-8", "LANGUAGE": "en_US:en"}, "en"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:zh"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8", "LANGUAGE": "zh_CN:zh"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN"}, "zh"),
        ({}, "en"),
    ],
)
def test_the_language_is_the_locale_of_the_user(monkeypatch, environment, language):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG", "LANGUAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("locale.getlocale", lambda: (None, None))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert user_language() == language


@pytest.mark.parametrize("name", ["", *command.COMMANDS])
def test_help_is_chinese_and_fits_the_terminal(monkeypatch, capsys, name):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    monkeypatch.setenv("LANGUAGE", "zh_CN")
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        command.main([*filter(None, [name]), "--help"])
    printed = capsys.readouterr().out
    text = " ".join(printed.partition("dcclip ~/Photos\n")[0].split())
    assert "用法：dcclip" in text and not re.search(r"[a-z]{2,} [a-z]{2,} [a-z]{2,}", text)
    assert max(len(line.encode("gbk")) for line in printed.splitlines()) <= 80
