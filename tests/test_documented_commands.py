"""Every command of this project that a README, a recipe or a help text shows is one that its command line takes."""

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from training.studies.tables import list_readmes

ROOT = Path(__file__).parents[1]
PARSERS = ("parse_options", "parse_recipe")
# stands for RECIPE, which the command line opens
RECIPE = "training/configs/demo_{}.yaml"
SCRIPT = re.compile(r"training/\w+\.py|training(?:\.\w+)+")


class Parsed(Exception):
    """The arguments were taken."""


def code_of(path: Path) -> str:
    """Lines of a file that hold commands: code of a README, the header of a recipe, or the module's docstring."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        blocks = re.findall(r"^```(?:console|bash)\n(.*?)^```", text, re.S | re.M)
        for row in re.findall(r"^\|.*\|$", text, re.M):
            blocks += re.findall(r"`([^`]+)`", row)
        return "\n".join(blocks)
    if path.suffix == ".yaml":
        return "\n".join(re.findall(r"^#(   .*)$", text, re.M))
    examples = re.match(r'r?"""[^"]*?\nExamples:\n((?:  .*\n)+)', text)
    return examples[1] if examples else ""


def commands_of(path: Path) -> Iterator[list[str]]:
    """Words of the commands of this project in a file, with shell variables in place."""
    variables: dict[str, str] = {}
    for line in re.sub(r"\\\n\s*", " ", code_of(path)).splitlines():
        if assigned := re.fullmatch(r"(\w+)=(\S+)", line.strip()):
            variables[assigned[1]] = assigned[2]
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        for part in line.split("&&"):
            if not re.search(r"\bpython -m training\.|\btraining/\w+\.py", part):
                continue
            words = shlex.split(part, comments=True)
            # a command in quotes, as srun takes it, is one word; `...` abbreviates one; test_script runs `--import`
            is_whole = any(SCRIPT.fullmatch(word) for word in words[1:])
            if is_whole and not {"...", "--help", "--import"} & set(words):
                yield words


FILES = [
    *list_readmes(),
    *sorted((ROOT / "training").rglob("*.yaml")),
    *sorted((ROOT / "training").rglob("*.py")),
]
CASES = [(path, words) for path in FILES for words in commands_of(path)]


def test_every_kind_of_file_shows_commands():
    assert {path.suffix for path, _ in CASES} == {".md", ".yaml", ".py"}


@pytest.fixture
def parse_only(monkeypatch):
    """Function that makes every parser of the imported modules raise `Parsed` after it has taken the arguments."""

    def patch():
        for name in PARSERS:
            modules = [module for module in list(sys.modules.values()) if name in vars(module)]
            for parse in {getattr(module, name) for module in modules}:

                def stop(*args, parse=parse, **kwargs):
                    parse(*args, **kwargs)
                    raise Parsed

                for module in modules:
                    monkeypatch.setattr(module, name, stop)

    monkeypatch.chdir(ROOT)
    return patch


@pytest.mark.parametrize(
    ("path", "words"),
    CASES,
    ids=[f"{path.relative_to(ROOT)}-{' '.join(words)[:60]}" for path, words in CASES],
)
def test_a_documented_command_is_taken(path, words, parse_only, capsys):
    position = next(number for number, word in enumerate(words) if SCRIPT.fullmatch(word))
    name = words[position].removesuffix(".py").replace("/", ".")
    recipe = RECIPE.format("distill" if "distill" in name else "align")
    arguments = [recipe if word == "RECIPE" else word for word in words[position + 1 :]]
    module = importlib.import_module(name)
    if not hasattr(module, "main"):
        module = importlib.import_module(f"{name}.__main__")
    parse_only()
    try:
        module.main(arguments)
    except Parsed:
        return
    except SystemExit:
        pytest.fail(f"{shlex.join(words)}: {capsys.readouterr().err}")
    pytest.fail(f"{shlex.join(words)}: nothing was parsed")
