"""The folder of an index: its manifest, its lock, and the data that the manifest names.

    manifest.json     format version, date, embedding space (model, weights, teacher, preprocessing, dimension), dtype
    data-1/           catalog.sqlite (files, catalog_dcclip.py) and vectors/ (shards, vectors_dcclip.py; with USearch a
                      graph, graph_dcclip.py)

Data are written first, and come into force by the one renaming of a manifest.
"""

import json
import os
import re
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __package__:
    from .catalog_dcclip import Catalog
    from .graph_dcclip import ENGINES
    from .runtime_dcclip import Runtime
    from .space_dcclip import Space
    from .vectors_dcclip import VectorStore
else:  # in a model folder
    from catalog_dcclip import Catalog  # type: ignore[no-redef]
    from graph_dcclip import ENGINES  # type: ignore[no-redef]
    from runtime_dcclip import Runtime  # type: ignore[no-redef]
    from space_dcclip import Space  # type: ignore[no-redef]
    from vectors_dcclip import VectorStore  # type: ignore[no-redef]

FORMAT, VERSION = "dcclip-index", 1
DATA_NAME = re.compile(r"data-\d{1,9}")
MAX_DIMENSION = 2**16
ROTATION = "rotation"  # name of the map from the teacher's space to that of the index
MANIFEST, UPGRADE, LOCK, CATALOG, VECTORS = "manifest.json", "upgrade.json", ".lock", "catalog.sqlite", "vectors"
UNFINISHED = ".unfinished.json"  # manifest of an index until its data are there


def create_folder(folder: Path, runtime: Runtime, space: Space, dtype: str) -> dict[str, Any]:
    """Create an empty index, again if a process was killed while it created one.

    Args:
        folder: Folder of the index, empty or new.
        runtime: Its model.
        space: Embedding space of the model.
        dtype: How vectors are stored.

    Returns:
        The manifest.

    Raises:
        ValueError: The folder has other files, or another process is creating an index in it.
        OSError: The disk is full or cannot be written.
    """
    unfinished = folder / UNFINISHED
    found = [path for path in folder.glob("*") if not path.name.startswith(".")]
    # listed before these two are looked for: another process may be creating the index
    if found and not unfinished.exists() and not (folder / MANIFEST).exists():
        raise ValueError(f"index: {str(folder)!r} has other files and no index. Name an empty or new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = make_manifest(runtime, space, dtype, 1)
    with write_lock(folder):
        if not (folder / MANIFEST).exists():  # else another process was faster
            if unfinished.exists():  # a process was killed here
                shutil.rmtree(folder / manifest["data"], ignore_errors=True)
            write_manifest(folder, manifest, UNFINISHED)
            with closing(open_data(folder, manifest, create=True)[0]) as catalog:
                store_rotation(catalog, runtime)
            unfinished.replace(folder / MANIFEST)
    return read_manifest(folder)


def make_manifest(runtime: Runtime, space: Space, dtype: str, number: int, engine: str = ENGINES[0]) -> dict[str, Any]:
    """Content of a manifest.

    Args:
        runtime: Model of the index; its folder is used by searches without another one.
        space: Embedding space of the model.
        dtype: How vectors are stored.
        number: Number of the data folder, counted from 1 by upgrades.
        engine: How vectors are searched, one of `ENGINES`.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": uuid.uuid4().hex,  # a folder that was replaced has another one
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "dtype": dtype,
        "engine": engine,
        "data": f"data-{number}",
        "model_folder": str(runtime.folder.absolute()),
        "space": space.to_dict(),
        "maps": {},
    }


def open_data(folder: Path, manifest: dict[str, Any], create: bool = False) -> tuple[Catalog, VectorStore]:
    """Open the catalog and the vectors that a manifest names.

    Args:
        folder: Folder of the index.
        manifest: Content of its manifest.
        create: Whether to create what does not exist.

    Raises:
        ValueError: There is no catalog, or it is damaged.
    """
    data = folder / manifest["data"]
    if create:
        data.mkdir(exist_ok=True)
    elif not (data / CATALOG).is_file() or not (data / CATALOG).stat().st_size:
        raise ValueError(
            f"index: {str(data / CATALOG)!r} is missing or empty, and the manifest names it. Restore it, or remove "
            f"{str(folder)!r} and index the photographs again."
        )
    store = VectorStore(data / VECTORS, manifest["space"]["dimension"], manifest["dtype"])
    return Catalog(data / CATALOG), store


def store_rotation(catalog: Catalog, runtime: Runtime):
    """Keep the rotation of a model in the catalog of its index, so that other models can search without its folder.

    A folder without model.safetensors lacks the rotation; its index is searched by models of the same rotation.
    """
    if (runtime.folder / "model.safetensors").is_file() and runtime.rotation is not None:
        catalog.store_map(ROTATION, runtime.rotation)


def remove_stale_data(folder: Path):
    """Remove the data that an upgrade has replaced. Call it within the lock of the index."""
    named = {read_manifest(folder)["data"]}
    if (folder / UPGRADE).is_file():
        named.add(read_manifest(folder, UPGRADE)["data"])
    for data in folder.glob("data-*"):
        if data.name not in named:
            shutil.rmtree(data, ignore_errors=True)


@contextmanager
def write_lock(folder: Path) -> Iterator[None]:
    """Lock that one process at a time can have; a killed process releases it.

    Args:
        folder: Folder of the index.

    Raises:
        ValueError: Another process has it.
        OSError: The disk is full or cannot be written.
    """
    try:
        with closing(sqlite3.connect(folder / LOCK, timeout=0, isolation_level=None)) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            yield
    except (OSError, sqlite3.Error) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise ValueError(
                f"index: another process is writing to {str(folder)!r}. Wait for it to end, or stop it."
            ) from error
        raise OSError(
            f"index: cannot write to {str(folder)!r} ({error}). What was indexed before is intact. Free some space or "
            "check the disk, and run the same command again."
        ) from error


def write_manifest(folder: Path, manifest: dict[str, Any], name: str = MANIFEST):
    """Write a manifest atomically."""
    scratch = folder / f".{name}.{os.getpid()}"
    with scratch.open("w", encoding="utf-8") as file:
        json.dump(manifest, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(folder / name)


def read_manifest(folder: Path, file: str = MANIFEST) -> dict[str, Any]:
    """Read a manifest.

    Raises:
        ValueError: It is no manifest, or has another format version.
    """
    try:
        manifest = json.loads((folder / file).read_text(encoding="utf-8"))
        name, version = manifest["format"], manifest["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"index: {str(folder / file)!r} is not the manifest of an index ({error}).") from error
    if name != FORMAT or version != VERSION:
        raise ValueError(
            f"index: {str(folder)!r} has format {name!r} version {version}, expected {FORMAT!r} version {VERSION}. "
            "Update dcclip, or index into another folder with --index."
        )
    if damaged := _damaged_fields(manifest):
        raise ValueError(
            f"index: {str(folder / file)!r} is damaged ({', '.join(damaged)}). Restore it, or index into another "
            "folder with --index."
        )
    return manifest


def _damaged_fields(manifest: dict[str, Any]) -> list[str]:
    """Fields of a manifest whose value cannot be right. A folder of the data elsewhere would be written to."""
    damaged = [name for name in ("model_folder", "data", "dtype") if not isinstance(manifest.get(name), str)]
    if "data" not in damaged and not DATA_NAME.fullmatch(manifest["data"]):
        damaged.append("data")
    if not isinstance(manifest.get("maps"), dict):
        damaged.append("maps")
    try:
        space = Space(**manifest["space"])
        if type(space.dimension) is not int or not 1 <= space.dimension <= MAX_DIMENSION:
            damaged.append("space.dimension")
    except (TypeError, KeyError):
        damaged.append("space")
    return damaged
