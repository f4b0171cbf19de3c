"""Templates and ImageNet's names out of other people's packages, where they are installed.

Nothing of them is imported: JSON is read as JSON, and Python files are parsed, so that neither their dependencies nor
seconds of imports are needed. Install them without their dependencies: `pip install --no-deps clip-benchmark`.
"""

import ast
import importlib.util
import json
from functools import cache
from pathlib import Path

CLIP_BENCHMARK, CN_CLIP, TIMM = "clip-benchmark", "cn-clip", "timm"


def file_of(package: str, name: str) -> Path | None:
    """A file of a package; None where it is not installed or has no such file.

    Args:
        package: its name on PyPI.
        name: path inside the package.
    """
    spec = importlib.util.find_spec(package.replace("-", "_"))
    folders = (spec and spec.submodule_search_locations) or []
    return next((path for folder in folders if (path := Path(folder) / name).is_file()), None)


@cache
def read_json(path: Path) -> dict[str, list[str]]:
    """Lists of `clip-benchmark` by set, with `{}` for its `{c}`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: [line.replace("{c}", "{}") for line in lines] for name, lines in content.items()}


@cache
def read_python(path: Path) -> dict[str, list[str]]:
    """The lists that a Python file assigns at its top: strings, or functions that fill a name into a sentence, for
    which the sentence is given with `{}` where the name belongs.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lists = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.List | ast.Tuple):
            continue
        if isinstance(node.targets[0], ast.Name):
            lists[node.targets[0].id] = [_sentence(element) for element in node.value.elts]
    return lists


def _sentence(node: ast.expr) -> str:
    if isinstance(node, ast.Lambda):
        node = node.body
    if isinstance(node, ast.JoinedStr):
        return "".join("{}" if isinstance(part, ast.FormattedValue) else _sentence(part) for part in node.values)
    return str(ast.literal_eval(node))
