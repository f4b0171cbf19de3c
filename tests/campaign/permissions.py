"""Cases of missing permissions, which need a user without root rights.

setpriv --reuid=65534 --regid=65534 --clear-groups python -m tests.campaign --groups permissions
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from modeling_dcclip.index_dcclip import Index
from modeling_dcclip.manifest_dcclip import MANIFEST
from tests.campaign.outcome import CLEAR, EITHER, Case
from training.config import DistillRecipe, recipe_from_args
from training.data.sources import load_source
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.templates import read_templates
from training.finetuning.tables import read_table
from training.utils.cli import user_errors
from training.utils.output import claim_folder
from training.utils.results import Results

MODEL_FILES = ("README.md", "model.safetensors")


def permissions() -> Iterator[Case]:
    """Files that the user cannot read and folders that they cannot write; root can do both."""
    readers: dict[str, tuple[str, Callable[[Path], object]]] = {
        "recipe": ("a.yaml", lambda path: recipe_from_args(DistillRecipe, ["--config", str(path)])),
        "data": ("a.parquet", lambda path: load_source(str(path))),
        "folder of images": ("images", lambda path: load_source(str(path))),
        "class names": ("names.json", ClassNames.read),
        "templates": ("templates.json", lambda path: read_templates(str(path), "en", "mnist")),
        "results": ("results.json", Results.read),
        "table": ("a.csv", read_table),
        "index": (MANIFEST, lambda path: Index.open(path.parent)),
    }
    expected = CLEAR if os.geteuid() else EITHER
    for name, (file, read) in readers.items():
        yield Case("permissions", f"{name} cannot be read", partial(_denied, file=file, use=read), expected)
    for name, use in {"is new": lambda path: path, "exists": lambda path: path.parent}.items():
        run = partial(_denied, file="locked/out", use=partial(_claim_at, place=use))
        yield Case("permissions", f"output folder {name} and cannot be written", run, expected)


def _claim_at(path: Path, place: Callable[[Path], Path]):
    with claim_folder(place(path), MODEL_FILES, command="distill"):
        (place(path) / MODEL_FILES[0]).write_text("ours", encoding="utf-8")


def _denied(folder: Path, file: str, use: Callable[[Path], object]):
    """Use a file or a folder without any permission, as a command does, and expect a line that names it."""
    path = folder / file
    locked = path.parent if path.parent != folder else path
    if locked == path and path.suffix:
        path.write_text("{}", encoding="utf-8")
    else:
        locked.mkdir()
    locked.chmod(0o500 if locked != path else 0)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), user_errors("campaign"):
            use(path)
    except SystemExit as error:
        line = errors.getvalue().removeprefix("campaign: ")
        if line.count("\n") != 1 or (os.geteuid() and locked.name not in line):
            raise AssertionError(f"unclear line {line!r}") from error
        raise ValueError(f"{locked.name}: {line}") from error
    finally:
        locked.chmod(0o700)  # so that it can be removed
