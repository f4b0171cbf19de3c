"""Atomic writes: a file or folder is complete or absent."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPO_ROOT = Path(__file__).parents[2]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Provide a temporary file that replaces `path` at the end of the `with` block.

    If the block fails, the temporary file is removed and `path` stays as before.

    Args:
        path: Path of the finished file; missing parent folders are created.

    Yields:
        Path of the temporary file, in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.touch()
    mode = scratch.stat().st_mode
    try:
        yield scratch
        scratch.chmod(mode)  # that of a new file; safetensors creates its files with mode 0600
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str):
    """Write a UTF-8 text file atomically.

    Args:
        path: Path of the finished file; missing parent folders are created.
        text: Content of the file.
    """
    with atomic_write(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Provide an empty folder that is removed at the end of the `with` block.

    Move finished files out of it within the block. Whatever remains is removed, also after an error.

    Args:
        folder: Path of the folder to create. If it exists, for example after a crash, its content is removed first.

    Yields:
        The same path.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def holds_files(folder: Path) -> bool:
    """Check whether a folder exists and is not empty."""
    return folder.exists() and any(folder.iterdir())


def replace_folder(scratch: Path, folder: Path):
    """Move a finished folder into place after its content is on the disk.

    The previous folder is moved aside first and removed last. At any moment the old or the new folder is complete. If
    the process is killed in between, `recover_folder` restores the old one.

    Args:
        scratch: Finished folder, in the same parent folder as `folder`.
        folder: Path that it replaces.
    """
    sync(scratch)
    old = _moved_aside(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    sync(folder.parent, deep=False)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path):
    """Clean up after a `replace_folder` or `remove_folder` that was killed.

    If `folder` is missing, the old folder that was moved aside takes its place again.
    """
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
    return folder.with_name(f".{folder.name}.old")


def sync(path: Path, deep: bool = True):
    """Flush a file or folder to the disk (`fsync`), so that a power failure cannot leave a name without its content.

    Args:
        path: File or folder.
        deep: Whether to flush everything inside a folder, too.
    """
    if deep and path.is_dir():
        for inner in path.iterdir():
            sync(inner)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
