"""Atomic writes: a file or folder is complete or absent.

Temporary files and folders are created exclusively under a random name with a suffix of ours, so none of the user's is
ever replaced or removed.
"""

import importlib.util
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPO_ROOT = Path(__file__).parents[2]
SCRATCH_SUFFIX = ".dcclip-tmp"
OLD_SUFFIX = ".dcclip-old"
ELSEWHERE = "<elsewhere>"  # stands for a folder of this machine in files that a run writes
CLAIM_FOLDER = ".dcclip"  # lock and record of an output folder, see output.py
ABSOLUTE_PATH = re.compile(r"""(?<![^\s='"(])(?:file://)?/[^\s'"(),;/]+/[^\s'"(),;]+""")


def expanded(name: str) -> Path:
    """Path with `~` as the home folder. A name of no user stays, where `Path.expanduser` has an error of its own."""
    return Path(os.path.expanduser(name))


def portable(name: str, num_parts: int = 1) -> str:
    """A name that means the same on any machine, for files that a run writes.

    Args:
        name: Path, Hub id or other source. Ids and paths inside the working directory are returned unchanged.
        num_parts: Number of last parts to keep of a path outside the working directory.

    Returns:
        The path relative to the working directory if it is inside it, else its last parts.
    """
    path = relative_path(name)
    if path == "." or path.startswith(("../", "~/", ELSEWHERE)):
        parts = Path(name.removeprefix("file://")).parts
        return "/".join([part for part in parts if part != "/"][-num_parts:])
    return path


def relative_path(name: str) -> str:
    """A path without the folders of this machine that means the same from the same working directory, if there is one.

    Returns:
        A relative path, or one from the home directory (`~/...`). Of a path that shares no folder with either, the
        last part in `ELSEWHERE`, which is no file: it has to be named again. All but absolute paths are returned
        unchanged.
    """
    path = Path(name.removeprefix("file://"))
    here = Path.cwd()
    if not path.is_absolute():
        return name
    if len(Path(os.path.commonpath([path, here])).parts) > 1:
        return os.path.relpath(path, here)
    if path.is_relative_to(home := Path.home()) and len(home.parts) > 1:
        return f"~/{path.relative_to(home)}"
    return f"{ELSEWHERE}/{path.name}" if len(path.parts) > 1 else name


def portable_text(text: str) -> str:
    """A text, such as a command line, with all its absolute paths made portable."""
    return ABSOLUTE_PATH.sub(lambda match: portable(match[0]), text)


def map_strings(change: Callable[[str], str], value: Any) -> Any:
    """Change all strings in a value of lists and mappings. Tuples become lists, as in YAML and JSON."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: map_strings(change, item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_strings(change, item) for item in value]
    return value


def packaged_file(module: str, name: str) -> Path | None:
    """Path of a file in an installed package, which is not imported; None if there is none."""
    spec = importlib.util.find_spec(module)
    for folder in (spec and spec.submodule_search_locations) or []:
        path = Path(folder) / name
        if path.is_file():
            return path
    return None


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Provide a temporary file in the same folder that replaces `path` at the end of the `with` block.

    Missing parent folders are created. If the block fails, `path` stays as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _scratch_name(path)
    scratch.touch(exist_ok=False)
    mode = scratch.stat().st_mode
    try:
        yield scratch
        scratch.chmod(mode)  # the mode of new files; safetensors creates its files with 0600
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str):
    """Write a UTF-8 text file atomically; missing parent folders are created."""
    with atomic_write(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any):
    """Write a JSON file atomically; missing parent folders are created."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Provide a new folder next to `folder` that is removed at the end of the `with` block.

    Move finished files out of it within the block. `remove_leftovers` removes what a killed process leaves.
    """
    scratch = _scratch_name(folder)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_leftovers(folder: Path):
    """Remove the temporary files and folders that killed processes left in a folder and next to it.

    Call it only while no other process writes to the folder. Claimed folders inside it are left alone.
    """
    names = f".{folder.name}.{'[0-9a-f]' * 8}{SCRATCH_SUFFIX}"
    for path in (*folder.parent.glob(names), *folder.rglob(f".*{SCRATCH_SUFFIX}")):
        inside = [parent for parent in path.parents if folder in parent.parents]
        if any(map(is_claimed, inside)):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _scratch_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{SCRATCH_SUFFIX}")


def is_claimed(folder: Path) -> bool:
    """Whether a command of this project writes to a folder, or has written it: an output of its own."""
    return (folder / CLAIM_FOLDER).exists()


def replace_folder(scratch: Path, folder: Path):
    """Move a finished folder into place after its content is on the disk. Both are in the same parent folder, and the
    files get the mode of new ones.

    At any moment the old or the new folder is complete. If the process is killed in between, `recover_folder` restores
    the old one.
    """
    set_modes(scratch)
    sync(scratch)
    old = _moved_aside(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    sync(folder.parent, deep=False)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path):
    """Clean up after a `replace_folder` or `remove_folder` that was killed, and restore the old folder if needed."""
    old = _moved_aside(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path):
    """Remove a folder atomically: rename it first, then delete its files."""
    old = _moved_aside(folder)
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def _moved_aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{OLD_SUFFIX}")


def sync(path: Path, deep: bool = True):
    """Flush a file, or a folder and with `deep` everything inside it, to the disk (`fsync`)."""
    if deep and path.is_dir():
        for inner in path.iterdir():
            sync(inner)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_modes(folder: Path):
    """Give all files of a folder the mode of new files, such as 0644: safetensors creates its files with mode 0600."""
    mode = folder.stat().st_mode & 0o666  # the folder was created under the user's umask
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
