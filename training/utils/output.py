"""Output folders: nothing of the user's is overwritten, and no two runs write to one folder.

A command claims its output folder before it writes. The hidden folder `.dcclip/` inside it holds the lock, and the
names that our commands wrote. All other files in the folder belong to the user.
"""

import json
import os
import re
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import iglob
from pathlib import Path

from filelock import FileLock, Timeout

from training.utils.files import CLAIM_FOLDER, remove_leftovers, write_json

RECORD_FILE = "names.json"
LOCK_FILE = "lock"
HOLDER_FILE = "holder"  # who has the lock
MAX_NAMED = 5  # files that an error message names


@contextmanager
def claim_folder(
    folder: str | Path,
    names: Iterable[str],
    *,
    command: str,
    inputs: Mapping[str, str | Path | None] | None = None,
    overwrite: bool = False,
    field: str = "output_dir",
    flag: str | None = "--overwrite",
    wait: bool = False,
) -> Iterator[None]:
    """Lock an output folder for the `with` block, after a check that no file of the user is overwritten.

    Args:
        folder: Output folder; it is created if it does not exist, and removed again if nothing is written to it.
        names: Names of the files and folders that the command writes to it.
        command: Name of the command. It may replace what the same command wrote before.
        inputs: Folders, files or patterns that the command reads and must not write to, by the name of their option.
        overwrite: Whether existing files of these names may be replaced.
        field: Option that names the folder, for error messages.
        flag: Option that replaces existing files, for error messages; None if there is none.
        wait: Whether to wait if the folder is locked, instead of an error.

    Raises:
        ValueError: A file of the user or an input would be overwritten, or the folder is locked.
        OSError: The folder cannot be written to.
    """
    is_unexpanded = Path(folder).parts[:1] == ("~",)  # such as of `--output_dir=~/models` in bash
    if not str(folder).strip() or Path(folder).is_file() or is_unexpanded:
        raise ValueError(
            f"{field}: {str(folder)!r} is not a folder. Name a new or empty one, and write the path in full if your "
            "shell does not replace the ~."
        )
    folder = Path(folder)
    names = list(names)
    written = {(folder / name).resolve() for name in names}
    for name, value in (inputs or {}).items():
        # numbered files
        pattern = re.sub(r"\{\d+\.\.\d+\}", "*", os.path.expanduser(str(value or "")))
        for found in iglob(pattern, recursive=True):
            path = Path(found).resolve()
            if path == folder.resolve() or written & {path, *path.parents}:
                raise ValueError(
                    f"{field}: {str(folder)!r} would overwrite {name} {str(value)!r}, which this command reads. "
                    "Choose another folder."
                )
    known = recorded_names(folder)
    foreign = [
        name for name in names if os.path.lexists(folder / name) and known.get(name) != command
    ]
    if foreign and not overwrite:
        remedy = f", or add {flag} to replace them" if flag else ""
        raise ValueError(
            f"{field}: {str(folder)!r} has {listed(foreign)}, which {command} did not write and would overwrite. "
            f"Choose another folder{remedy}."
        )
    created = not folder.exists()
    (folder / CLAIM_FOLDER).mkdir(parents=True, exist_ok=True)
    with _locked(folder, field, wait):
        try:
            remove_leftovers(folder)
            record_names(folder, names, command)
            yield
        finally:
            kept = {
                name: by
                for name, by in recorded_names(folder).items()
                if os.path.lexists(folder / name)
            }
            if kept:
                _write_record(folder, kept)
            else:
                shutil.rmtree(folder / CLAIM_FOLDER, ignore_errors=True)
                with suppress(OSError):  # files of the user are in it
                    if created:
                        folder.rmdir()


def recorded_names(folder: Path) -> dict[str, str]:
    """Names that our commands wrote to a folder, each with the command. A damaged record counts as empty."""
    try:
        names = json.loads((folder / CLAIM_FOLDER / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return names if isinstance(names, dict) else {}


def record_names(folder: Path, names: Iterable[str], command: str):
    """Add names of files and folders that a command writes to the record of an existing folder."""
    _write_record(folder, recorded_names(folder) | dict.fromkeys(names, command))


def _write_record(folder: Path, names: Mapping[str, str]):
    if names != recorded_names(folder):
        write_json(folder / CLAIM_FOLDER / RECORD_FILE, names)


def record_tree(folder: Path, command: str):
    """Record every file of a complete folder, so that a later run can tell what the user has added to it."""
    record_names(folder, _files(folder), command)


def check_replaceable(folder: Path):
    """Check that every file of a folder was written by a command of ours, so that the folder can be replaced.

    Raises:
        ValueError: The folder has files of the user.
    """
    known = recorded_names(folder)
    foreign = []
    for name in _files(folder):
        parents = [str(parent) for parent in Path(name).parents]
        if known.keys().isdisjoint([name, *parents]):
            foreign.append(name)
    if foreign:
        raise ValueError(
            f"output_dir: {str(folder)!r} would be replaced, but has {listed(foreign)}, which no command of ours "
            "wrote. Move it, or choose another folder."
        )


def _files(folder: Path) -> list[str]:
    """Relative paths of all files in a folder but our record."""
    names = []
    for path in folder.rglob("*"):
        is_file = path.is_symlink() or not path.is_dir()
        if is_file and {CLAIM_FOLDER, "__pycache__"}.isdisjoint(path.parts):
            names.append(path.relative_to(folder).as_posix())
    return sorted(names)


def listed(names: list[str]) -> str:
    """The first names of a list, for an error message."""
    text = ", ".join(names[:MAX_NAMED])
    num_more = len(names) - MAX_NAMED
    return f"{text}, and {num_more} more" if num_more > 0 else text


@contextmanager
def _locked(folder: Path, field: str, wait: bool) -> Iterator[None]:
    """Hold the lock of a folder. The system releases it when the process ends, so no lock is ever stale."""
    holder = folder / CLAIM_FOLDER / HOLDER_FILE
    lock = FileLock(folder / CLAIM_FOLDER / LOCK_FILE, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout as error:
        by = "another process"
        with suppress(OSError):
            by = holder.read_text(encoding="utf-8") or by
        raise ValueError(
            f"{field}: {str(folder)!r} is in use by {by}. Wait until it has ended, or choose another folder."
        ) from error
    try:
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        command = shlex.join(sys.argv)[:500]
        by = f"process {os.getpid()} on {socket.gethostname()} since {started} ({command})"
        holder.write_text(by, encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)  # a finished folder names no machine and no path
        lock.release()
