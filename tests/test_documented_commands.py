"""Every command of this project that a README, a recipe or a help text shows is one that its command line takes."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from training.experiments.studies.tables import list_readmes
from training.utils.cli import OptionParser

ROOT = Path(__file__).parents[1]
# stands for RECIPE, which the command line opens
RECIPE = "training/configs/demo_{}.yaml"
SCRIPT = re.compile(r"training/\w+\.py|training(?:\.\w+)+")
# lines with commands: blocks and table cells of a README, the header of a recipe, the examples of a docstring
CODE = {
    ".md": r"^```(?:console|bash)\n(.*?)^```|^\|[^\n]*?`([^`\n]*python[^`\n]*)`",
    ".yaml": r"^#(   .*?)$",
    ".py": r"\nExamples:\n((?:  .*?\n)+)",
}


class Parsed(Exception):
    """The arguments were taken."""


def commands_of(path: Path) -> Iterator[list[str]]:
    """Words of the commands of this project in a file."""
    found = re.finditer(CODE[path.suffix], path.read_text(encoding="utf-8"), re.S | re.M)
    code = "\n".join(match[1] or match[2] for match in found)
    for part in re.split("\n|&&", re.sub(r"\\\n\s*#?", " ", code)):
        if re.search(r"\bpython -m training\.|\btraining/\w+\.py", part):
            words = shlex.split(part, comments=True)
            # `...` abbreviates a command; test_script runs `--import`
            if not {"...", "--help", "--import"} & set(words):
                yield words


FILES = [
    *list_readmes(),
    *sorted((ROOT / "training").rglob("*.yaml")),
    *sorted((ROOT / "training").rglob("*.py")),
]
CASES = [(path, words) for path in FILES for words in commands_of(path)]
NAMES = [f"{path.relative_to(ROOT)}-{shlex.join(words)[:60]}" for path, words in CASES]


def test_every_kind_of_file_shows_commands():
    assert {path.suffix for path, _ in CASES} == {".md", ".yaml", ".py"}


@pytest.mark.parametrize(("path", "words"), CASES, ids=NAMES)
def test_a_documented_command_is_taken(path, words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    position = next(number for number, word in enumerate(words) if SCRIPT.fullmatch(word))
    name = words[position].removesuffix(".py").replace("/", ".")
    recipe = RECIPE.format("distill" if "distill" in name else "align")
    arguments = [recipe if word == "RECIPE" else word for word in words[position + 1 :]]
    module = importlib.import_module(name)
    if not hasattr(module, "main"):
        module = importlib.import_module(f"{name}.__main__")
    parse = OptionParser.parse

    def stop(*arguments):
        parse(*arguments)
        raise Parsed

    monkeypatch.setattr(OptionParser, "parse", stop)
    with pytest.raises(Parsed):
        module.main(arguments)
    assert not capsys.readouterr().err
