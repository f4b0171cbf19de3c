"""The modules of the runtime in a model folder, where they are no package."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "modeling_dcclip"
MODULES = sorted(path for path in PACKAGE.glob("*.py") if "if __package__:\n    from ." in path.read_text("utf-8"))


def imported(statements: list[ast.stmt]) -> list[tuple[str | None, str]]:
    return [
        (statement.module, alias.name)
        for statement in statements
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    ]


@pytest.mark.parametrize("path", MODULES, ids=[path.name for path in MODULES])
def test_the_same_names_are_imported_inside_and_outside_the_package(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    branches = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "__package__"]
    assert len(branches) == 1
    assert imported(branches[0].body) == imported(branches[0].orelse)


def test_the_commands_run_in_a_model_folder(color_model, photos, tmp_path):
    folder = shutil.copytree(color_model, tmp_path / "model")
    for path in PACKAGE.glob("*.py"):
        if path.name != "__init__.py":
            shutil.copy(path, folder)
    environment = os.environ | {"PYTHONPATH": "", "PYTHONIOENCODING": "utf-8", "DCCLIP_INDEX": str(tmp_path / "index")}
    environment.pop("DCCLIP_MODEL", None)

    def run(*arguments: object) -> str:
        line = [sys.executable, str(folder / "command.py"), *map(str, arguments)]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, check=True).stdout.decode()

    assert run("index", photos).startswith("5 files in the index: 5 images embedded")
    assert run("search", "红", "--top", "1") == f"1.000  {photos}/red.jpg\n"
