"""The READMEs keep their word: Python blocks run, tables are the committed results, links and commands exist."""

import re
from pathlib import Path

import pytest

from training.studies.tables import list_readmes, render

ROOT = Path(__file__).parents[1]
READMES = list_readmes()
DOCUMENTS = [*READMES, ROOT / "CONTRIBUTING.md"]
ids = [str(path.relative_to(ROOT)) for path in READMES]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


# Python blocks of the README and its name. The README and its translation have the same blocks, which run once.
PROGRAMS = {"\n".join(blocks(read(name), "python")): name for name in ("README.zh.md", "README.md")}


@pytest.mark.slow
@pytest.mark.parametrize("code", PROGRAMS, ids=PROGRAMS.values())
def test_python_blocks_print_what_their_comments_say(code, run_python, tmp_path):
    expected = [line.removeprefix("# ") for line in code.splitlines() if line.startswith("# ")]
    (tmp_path / "readme.py").write_text(code, encoding="utf-8")
    found = run_python(str(tmp_path / "readme.py"), PYTHONIOENCODING="utf-8").stdout.splitlines()
    assert expected and found == expected


@pytest.mark.parametrize("path", READMES, ids=ids)
def test_tables_are_rendered_from_the_committed_results(path):
    text = path.read_text(encoding="utf-8")
    assert render(text) == text, "run: python -m training.studies tables"


def structure(text: str) -> list[str]:
    """Headings by level, code blocks by content, images, tables and list items, in order."""
    found: list[str] = []
    pattern = (
        r"^```(?P<code>.*?)^```|^(?P<heading>#+) |^(?P<item>- )"
        r"|!\[.*?\]\((?P<image>.*?)\)|<!-- table: (?P<table>\S+)"
    )
    for match in re.finditer(pattern, text, re.S | re.M):
        kind = match.lastgroup or ""
        found.append(f"{kind}: {match[kind]}")
    return found


def test_both_readmes_have_the_same_structure():
    english, chinese = read("README.md"), read("README.zh.md")
    assert structure(english) == structure(chinese)
    assert english.count("\n| ") == chinese.count("\n| ")
    assert english.splitlines()[0] == "**English** | [中文](README.zh.md)"
    assert chinese.splitlines()[0] == "[English](README.md) | **中文**"


@pytest.mark.parametrize("path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_local_links_and_named_files_exist(path):
    text = path.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)]
    missing = [link for link in links if link and not (path.parent / link).exists()]
    scripts = re.findall(r"(?<![\w/])training/[\w/]+\.(?:py|yaml)\b", text)
    modules = [name.replace(".", "/") for name in re.findall(r"python -m (training[\w.]*)", text)]
    missing += [name for name in scripts if not (ROOT / name).exists()]
    found = [
        (ROOT / f"{name}.py").exists() or (ROOT / name / "__main__.py").exists() for name in modules
    ]
    assert not missing and all(found), modules
