"""Atomic writes: a file or folder is complete or absent."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPO_ROOT = Path(__file__).parents[2]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to: it becomes `path` at the end, and vanishes if that is never reached.

    Args:
        path: of the finished file; its folder is made if it is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str):
    """Write a UTF-8 text file atomically.

    Args:
        path: of the finished file; its folder is made if it is not there.
        text: the content.
    """
    with atomic_write(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write to, from which the finished files are moved away; whatever is still in it at the end, such
    as after a full disk, is removed.

    Args:
        folder: where it lies; what an earlier run left there is removed first.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def holds_files(folder: Path) -> bool:
    """Whether there is anything in a folder, which itself need not be there."""
    return folder.exists() and any(folder.iterdir())


def replace_folder(scratch: Path, folder: Path):
    """Rename a finished folder into place, once the disk has all of it. What was there before makes way whole: at any
    moment the old folder or the new one is there; the old one perhaps beside its place, where `recover_folder` finds
    it.

    Args:
        scratch: beside `folder`.
        folder: where it goes.
    """
    sync(scratch)
    old = _beside(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    sync(folder.parent, deep=False)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path):
    """End what `replace_folder` or `remove_folder` was killed in."""
    old = _beside(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path):
    """Remove a folder: it is not there from one moment to the next, however long its files take."""
    old = _beside(folder)
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def sync(path: Path, deep: bool = True):
    """Wait until the disk has a file or folder, so that no loss of power leaves a name without its content.

    Args:
        path: of it.
        deep: of a folder, with all that is in it.
    """
    if deep and path.is_dir():
        for inner in path.iterdir():
            sync(inner)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
