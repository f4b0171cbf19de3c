"""The folder of an index: what a user said about it, its lock, and the data that are in force.

    settings.json         folders with what is left out of them, model, embedding space, number of the catalog
    settings.backup.json  the same, for a disk that damages the first
    catalog-1.sqlite      files and their vectors: a cache, which is computed again if it is lost

A new catalog is written first, and comes into force when the settings are renamed. It names the index that it belongs
to.
"""

import json
import os
import sqlite3
import stat
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from modeling_dcclip.image_dcclip import open_regular
from modeling_dcclip.runtime_dcclip import MAX_SIZE, Runtime
from modeling_dcclip.search.index.catalog import Catalog, DamagedIndexError, Database
from modeling_dcclip.search.index.space import Space
from modeling_dcclip.search.index.vectors import VectorStore
from modeling_dcclip.search.messages import Message, UserError, cause_of, joined, message_of
from modeling_dcclip.search.photos.files import fingerprint

FORMAT = "dcclip-index"
VERSION = 5
SETTINGS = "settings.json"
BACKUP = "settings.backup.json"
UPGRADE = "upgrade.json"
CATALOGS = "catalog-*.sqlite"
LOCK = ".lock"
MAX_BYTES = 2**24  # largest settings file


@dataclass(frozen=True)
class Settings:
    """What a user said about an index, and which data are in force.

    Args:
        folders: Indexed folders, each with the patterns of what stays out of it.
        model: Folder of the model.
        space: Embedding space of the data.
        data: Number of the catalog.
        id: Random name, which tells an index from one that replaces it.
        created: Date and time of the creation.
    """

    folders: dict[Path, list[str]]
    model: str
    space: Space
    data: int
    id: str
    created: str

    @classmethod
    def new(cls, runtime: Runtime, space: Space, data: int = 1) -> "Settings":
        """Settings of an index without folders."""
        created = datetime.now(UTC).isoformat(timespec="seconds")
        return cls({}, str(runtime.folder.absolute()), space, data, uuid.uuid4().hex, created)


def has_index(folder: Path) -> bool:
    """Whether a folder has the settings of an index, or a catalog that has lost them.

    Raises:
        OSError: The folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = {entry.name for entry in entries}
    except FileNotFoundError:
        return False
    if names & {SETTINGS, BACKUP}:
        return True
    return any(_has_files(folder / name) for name in names if fnmatch(name, CATALOGS))


def _has_files(catalog: Path) -> bool:
    """Whether a catalog has files, or cannot tell. A process that was killed while it created one leaves it empty."""
    try:
        with closing(Database(catalog, "")) as found:
            return bool(found.column("SELECT 1 FROM sqlite_master")) and (
                found.value("SELECT count(*) FROM files") > 0
            )
    except DamagedIndexError:
        return True


def read_settings(folder: Path, *names: str) -> Settings:
    """Read the settings of an index, from the copy if the first file is damaged.

    Raises:
        ValueError: There are none, or both files are damaged or of a different version.
        PermissionError: They cannot be read.
    """
    errors: list[Message] = []
    for name in names or (SETTINGS, BACKUP):
        try:
            with open_regular(folder / name) as file:
                return _parse(file.read(MAX_BYTES))
        except PermissionError:
            raise
        except Exception as error:  # any kind, such as a list in place of an object
            errors.append(Message("{}: {}", name, Message(message_of(error))))
    if not has_index(folder):
        raise UserError(
            "index: {!r} has no index. Create one: dcclip index FOLDER_OF_PHOTOS.", str(folder)
        )
    raise UserError(
        "index: {!r} has damaged settings ({}), so its folders and what they leave out are not known. Restore "
        "settings.json, or remove the index and name the folders again.",
        str(folder),
        joined(errors),
    )


def _parse(content: bytes) -> Settings:
    fields: dict[str, Any] = json.loads(content)
    is_sound = (fields.pop("format"), fields.pop("version")) == (FORMAT, VERSION)
    is_sound &= fields.pop("checksum") == _checksum(fields)
    space = Space(**fields.pop("space"))
    if not (is_sound and 1 <= space.dimension <= MAX_SIZE):
        raise UserError("damaged, edited, or not of version {}", VERSION)
    folders = {Path(path): [*map(str, texts)] for path, texts in fields.pop("folders").items()}
    return Settings(folders=folders, space=space, **fields)


def read_upgrade(folder: Path) -> Settings | None:
    """Settings of an interrupted upgrade; None without one. One that is damaged starts anew."""
    with suppress(ValueError):
        return read_settings(folder, UPGRADE)
    return None


def write_settings(folder: Path, settings: Settings, *names: str):
    """Write settings atomically, by default with their copy."""
    fields = asdict(settings)
    fields["folders"] = {str(path): patterns for path, patterns in settings.folders.items()}
    head = {"format": FORMAT, "version": VERSION, "checksum": _checksum(fields)}
    for name in names or (SETTINGS, BACKUP):
        # one name: the next run replaces that of a process that was killed
        scratch = folder / f".{name}.new"
        scratch.unlink(missing_ok=True)
        with scratch.open("x", encoding="ascii") as file:
            json.dump(head | fields, file, indent=1)  # escapes bytes of paths that are not UTF-8
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(folder / name)


def _checksum(fields: dict[str, Any]) -> str:
    return fingerprint(json.dumps(fields, sort_keys=True).encode())


def create_index(folder: Path, runtime: Runtime, space: Space) -> Settings:
    """Create an empty index, again if a process was killed while it created one."""
    settings = Settings.new(runtime, space)
    ours = catalog_path(folder, settings.data).name
    others = [path for path in folder.glob("[!.]*") if path.name not in (ours, f"{ours}-journal")]
    # listed before the settings are looked for: another process may be creating the index
    if others and not has_index(folder):
        raise UserError(
            "index: {!r} has other files and no index of this version. Name an empty or new folder.",
            str(folder),
        )
    with write_lock(folder):
        if not has_index(folder):  # else another process was faster
            create_catalog(folder, settings, runtime).close()
            write_settings(folder, settings)
    return read_settings(folder)


def catalog_path(folder: Path, number: int) -> Path:
    """Path of a catalog by its number."""
    return folder / f"catalog-{number}.sqlite"


def open_catalog(folder: Path, settings: Settings, create: bool = False) -> Catalog:
    """Open the catalog that settings name."""
    owner = f"{settings.id} {settings.data}"
    return Catalog(catalog_path(folder, settings.data), owner, create)


def create_catalog(folder: Path, settings: Settings, runtime: Runtime) -> Catalog:
    """Create the catalog that settings name, with the rotation of the model, so that others can search without it."""
    path = catalog_path(folder, settings.data)
    _remove(path)  # left by a process that was killed
    catalog = open_catalog(folder, settings, create=True)
    if (runtime.folder / "model.safetensors").is_file() and runtime.rotation is not None:
        catalog.rotation = runtime.rotation
    return catalog


def check_data(folder: Path, settings: Settings) -> str | None:
    """What is wrong with the data of an index; None if they are sound.

    Raises:
        DamagedIndexError: They are damaged, and the index has no folders to compute them from.
    """
    try:
        with closing(open_catalog(folder, settings)) as catalog:
            catalog.verify()
            VectorStore(catalog, settings.space.dimension).verify()
    except DamagedIndexError as error:
        if not settings.folders:
            raise
        return error.cause
    return None


def empty_data(folder: Path, settings: Settings, runtime: Runtime) -> Settings:
    """Put an empty catalog in the place of a damaged one. Call it within the lock of the index."""
    settings = replace(settings, data=settings.data + 1)
    create_catalog(folder, settings, runtime).close()
    write_settings(folder, settings)
    return settings


def remove_stale_data(folder: Path):
    """Remove catalogs that are no longer in force. Call it within the lock of the index."""
    named = [read_settings(folder)]
    if (upgrade := read_upgrade(folder)) is not None:
        named.append(upgrade)
    kept = {catalog_path(folder, settings.data).name for settings in named}
    for path in folder.glob(CATALOGS):
        if path.name not in kept and path.name[8:-7].isdecimal():  # else a copy that somebody made
            with suppress(OSError):
                _remove(path)


def _remove(catalog: Path):
    for path in (catalog, catalog.with_name(f"{catalog.name}-journal")):
        path.unlink(missing_ok=True)


class BusyError(ValueError):
    """Another process writes to the index."""


@contextmanager
def write_lock(folder: Path) -> Iterator[None]:
    """Lock that one process at a time can have; a killed process releases it.

    Raises:
        BusyError: Another process has it.
        OSError: The index cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(folder / LOCK) and not stat.S_ISREG(os.lstat(folder / LOCK).st_mode):
            (folder / LOCK).unlink()  # a link would lead out of the index
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise BusyError(
            Message(
                "index: another process is writing to {!r}. Wait for it to end, or stop it.",
                str(folder),
            )
        ) from error
    except (OSError, sqlite3.Error) as error:
        cause = error.__cause__ or error  # the catalog wraps errors of SQLite
        raise OSError(
            Message(
                "index: cannot write to {!r} ({}). What was indexed before is intact. Free some space, or check "
                "the disk and its permissions, and run the same command again.",
                str(folder),
                cause_of(cause),
            )
        ) from error
