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
# placeholders of files and folders that a command line opens
PLACEHOLDERS = {"training.distill": {"RECIPE": "training/configs/demo_distill.yaml"}}
PLACEHOLDERS |= {"training.align": {"RECIPE": "training/configs/demo_align.yaml"}}
COMMAND = re.compile(r"\bpython -m training\.|\btraining/\w+\.py")
SCRIPT = re.compile(r"training/\w+\.py|training(?:\.\w+)+")


class Parsed(Exception):
    """The arguments were taken."""


def code_of(path: Path) -> str:
    """Lines of a file that hold commands: code of a README, the header of a recipe, or the module's docstring."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        blocks = re.findall(r"^```(?:console|bash)\n(.*?)^```", text, re.S | re.M)
        cells = re.findall(r"^\|.*\|$", text, re.M)
        return "\n".join(
            [*blocks, *(code for cell in cells for code in re.findall(r"`([^`]+)`", cell))]
        )
    if path.suffix == ".yaml":
        return "\n".join(line[1:] for line in text.splitlines() if line.startswith("#   "))
    examples = re.match(r'r?"""[^"]*?\nExamples:\n((?:  .*\n)+)', text)
    return examples[1] if examples else ""


def commands_of(path: Path) -> Iterator[list[str]]:
    """Words of the commands of this project in a file, with shell variables in place."""
    variables: dict[str, str] = {}
    for line in re.sub(r"\\\n\s*", " ", code_of(path)).splitlines():
        line = re.sub(r"\$(\w+)", lambda match: variables.get(match[1], match[0]), line)
        if assigned := re.fullmatch(r"(\w+)=(\S+)", line.strip()):
            variables[assigned[1]] = assigned[2]
        for part in line.split("&&"):
            words = shlex.split(part, comments=True) if COMMAND.search(part) else []
            # a command in quotes, as srun takes it, is one word; `...` abbreviates one; test_script runs `--import`
            scripts = [word for word in words[1:] if SCRIPT.fullmatch(word)]
            if scripts and not {"...", "--help", "--import"} & set(words):
                yield words


def module_and_arguments(words: list[str]) -> tuple[str, list[str]]:
    position = next(i for i, word in enumerate(words) if SCRIPT.fullmatch(word))
    name = words[position].removesuffix(".py").replace("/", ".")
    places = PLACEHOLDERS.get(name, {})
    return name, [places.get(word, word) for word in words[position + 1 :]]


FILES = [
    *list_readmes(),
    *sorted((ROOT / "training").rglob("*.yaml")),
    *sorted((ROOT / "training").rglob("*.py")),
]
CASES = [(path, words) for path in FILES for words in commands_of(path)]


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
    name, arguments = module_and_arguments(words)
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
