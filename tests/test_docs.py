"""The READMEs keep their word: Python blocks run, tables are the committed results, links and commands exist."""

import re
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

from training.experiments.studies.tables import list_readmes

ROOT = Path(__file__).parents[1]
READMES = list_readmes()
DOCUMENTS = [*READMES, ROOT / "CONTRIBUTING.md"]
# the names at the start of a line of an index, such as "- `cache.py`, `cached_targets.py`: ..."
LISTED = re.compile(r"^(?:- )?(?:`?\w+\.py`?,? *)+", re.M)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def python_code(name: str) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", read(name), re.S | re.M))


# the README and its translation have the same blocks, which run once
PROGRAMS = {python_code(name): name for name in ("README.zh.md", "README.md")}


@pytest.mark.slow
@pytest.mark.parametrize("code", PROGRAMS, ids=PROGRAMS.values())
def test_python_blocks_print_what_their_comments_say(code, run_python, tmp_path):
    expected = [line.removeprefix("# ") for line in code.splitlines() if line.startswith("# ")]
    (tmp_path / "readme.py").write_text(code, encoding="utf-8")
    found = run_python(str(tmp_path / "readme.py"), PYTHONIOENCODING="utf-8").stdout.splitlines()
    assert expected
    assert found == expected


def structure(text: str) -> list[str]:
    """Headings by level, code blocks by content, images, tables and list items, in order."""
    pattern = (
        r"^```(?P<code>.*?)^```|^(?P<heading>#+) |^(?P<item>- )"
        r"|!\[.*?\]\((?P<image>.*?)\)|<!-- table: (?P<table>\S+)"
    )
    matches = re.finditer(pattern, text, re.S | re.M)
    return [f"{match.lastgroup}: {match[match.lastgroup or 0]}" for match in matches]


def test_both_readmes_have_the_same_structure():
    english, chinese = read("README.md"), read("README.zh.md")
    assert structure(english) == structure(chinese)
    assert english.count("\n| ") == chinese.count("\n| ")


def indexes_of_folders() -> list[Path]:
    """Folders whose `__init__.py` lists files, each in a line of its own."""
    packages = [
        path
        for name in ("training", "modeling_dcclip")
        for path in (ROOT / name).rglob("__init__.py")
    ]
    return [path for path in packages if LISTED.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", indexes_of_folders(), ids=lambda path: name_of(path.parent))
def test_the_index_of_a_folder_lists_its_files(path):
    lines = LISTED.findall(path.read_text(encoding="utf-8"))
    listed = {name for line in lines for name in re.findall(r"\w+\.py", line)}
    assert listed == {file.name for file in path.parent.glob("*.py")} - {"__init__.py"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_local_links_exist(path):
    links = re.findall(r"\]\((?!https?:|#)([^)\s#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_named_scripts_and_modules_exist(path):
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![\w/])training/[\w/]+\.(?:py|yaml)\b", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"python -m (training[\w.]*)", text):
        module = ROOT / name.replace(".", "/")
        assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), name


@pytest.mark.parametrize("script", ["align", "embed"])
def test_the_header_of_a_job_has_the_requirements_of_training(script):
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = dict(config["options.extras_require"]) | dict(config["checkout.extras_require"])
    extras["dcclip"] = config["options"]["install_requires"]

    def requirements(extra: str) -> dict[str, str]:
        """Each requirement by its package; a later one, which is stricter, replaces an earlier one."""
        found = {}
        for line in extras[extra].split("\n"):
            if inner := re.fullmatch(r"dcclip\[(\w+)\]", line):
                found |= requirements(inner[1])
            elif line and not line.startswith("#"):
                found[re.split("[<>=]", line)[0]] = line
        return found

    text = (ROOT / f"training/{script}.py").read_text(encoding="utf-8")
    header = re.match(r"# /// script\n(.+?)\n# ///\n", text, re.S)
    listed = tomllib.loads(re.sub("^# ?", "", header[1], flags=re.M))["dependencies"]
    expected = requirements("dcclip") | requirements("train")
    assert sorted(listed) == sorted(expected.values())
