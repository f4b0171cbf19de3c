"""Templates and class names from the packages clip-benchmark, cn-clip and timm, if they are installed.

The packages are not imported: JSON files are read and Python files are parsed, which is fast and does not need their
dependencies. Install them without dependencies: `pip install --no-deps clip-benchmark`.
"""

import ast
import importlib.util
import json
from functools import cache
from pathlib import Path

CLIP_BENCHMARK, CN_CLIP, TIMM = "clip-benchmark", "cn-clip", "timm"


def file_of(package: str, name: str) -> Path | None:
    """Path of a file in a package; None if the package is not installed or has no such file.

    Args:
        package: Name of the package on PyPI.
        name: Path inside the package.
    """
    spec = importlib.util.find_spec(package.replace("-", "_"))
    folders = (spec and spec.submodule_search_locations) or []
    return next((path for folder in folders if (path := Path(folder) / name).is_file()), None)


@cache
def read_json(path: Path) -> dict[str, list[str]]:
    """Lists of `clip-benchmark` by set, with its `{c}` replaced by `{}`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: [line.replace("{c}", "{}") for line in lines] for name, lines in content.items()}


@cache
def read_python(path: Path) -> dict[str, list[str]]:
    """Lists that a Python file assigns at module level. Their items are strings, or functions that insert a name into
    a template, which are returned as the template with `{}` in place of the name.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lists = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.List | ast.Tuple):
            continue
        if isinstance(node.targets[0], ast.Name):
            lists[node.targets[0].id] = [_template(element) for element in node.value.elts]
    return lists


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Lambda):
        node = node.body
    if isinstance(node, ast.JoinedStr):
        return "".join("{}" if isinstance(part, ast.FormattedValue) else _template(part) for part in node.values)
    return str(ast.literal_eval(node))
