"""House style that ruff does not check: short functions, self-contained `Args:` entries, the words of the field."""

import ast
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from docstring_parser import parse as parse_docstring

ROOT = Path(__file__).parents[1]
MAX_FUNCTION_LINES = 60
MIN_ENTRY_WORDS = 2
# words of an earlier private dialect, and entries that lean on their neighbours
BANNED = re.compile(
    r"\b(pictures?|rivals?|stranger|likewise|artefact|exams?|hand it|see there|as it is|is said|are said|of which|"
    r"stands? in|stand beside|stands? there|lies in|wants?|better do not)\b",
    re.I,
)
LIBRARY = ("modeling_dcclip", "training", "model_cards/space")
FILES = sorted(
    path
    for path in subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    if path.startswith(LIBRARY) and (ROOT / path).exists()
)
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def walk(path: str) -> Iterator[Documented]:
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, Documented):
            yield node


def prose(path: str) -> Iterator[tuple[int, str]]:
    """Docstrings and comments, by line."""
    with tokenize.open(ROOT / path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
            elif token.type == tokenize.STRING and token.string.startswith('"""'):
                for offset, line in enumerate(token.string.splitlines()):
                    yield token.start[0] + offset, line


@pytest.mark.parametrize("path", FILES)
def test_functions_are_short(path):
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in walk(path)
        if not isinstance(node, ast.ClassDef) and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize("path", FILES)
def test_args_entries_can_be_read_alone(path):
    wrong = []
    for node in walk(path):
        for entry in parse_docstring(ast.get_docstring(node) or "").params:
            text = " ".join((entry.description or "").split())
            is_sentence = re.match(r"[A-Z0-9`(\[*]", text) and text.endswith((".", ":", "`", ")"))
            if not is_sentence or len(text.split()) < MIN_ENTRY_WORDS:
                wrong.append(f"{node.name}({entry.arg_name}): {text!r}")
    assert not wrong, "start with a capital, end with a full stop: " + "\n".join(wrong)


@pytest.mark.parametrize("path", FILES)
def test_words_are_those_of_the_field(path):
    found = [f"line {line}: {text.strip()}" for line, text in prose(path) if BANNED.search(text)]
    assert not found, "\n".join(found)
