"""The folder of an index: its manifest, its lock, and the data that the manifest names.

    manifest.json     format version, id, date, and embedding space (model, fingerprints, teacher)
    data-1/           catalog.sqlite (files, see catalog.py) and vectors/ (see vectors.py)

Data are written first, and come into force when the manifest is renamed.
"""

import hashlib
import json
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.catalog import Catalog
from modeling_dcclip.search.vectors import VectorStore

FORMAT, VERSION = "dcclip-index", 4
MANIFEST, UPGRADE, LOCK, CATALOG, VECTORS = (
    "manifest.json",
    "upgrade.json",
    ".lock",
    "catalog.sqlite",
    "vectors",
)
WEIGHTS = "model*.safetensors"


@dataclass(frozen=True)
class Space:
    """Embedding space of a model: who may search an index, and who may add to it.

    Args:
        model: Hub id of the model, or its folder.
        weights: Fingerprint of its weights, 16 hexadecimal digits.
        files: Fingerprint of the files that encode: both ONNX files, the tokenizer and the preprocessing, 16
            hexadecimal digits.
        teacher: Name of the teacher whose space it has; None if it has no teacher.
        teacher_weights: Fingerprint of the teacher's weights; None if the model does not tell.
        dimension: Number of dimensions D of the embeddings.
        rotation: Digest of the rotation from the teacher's space to this one; None if they are the same.
        projection_dim: Number of dimensions before the embeddings were truncated.
    """

    model: str
    weights: str
    files: str
    teacher: str | None
    teacher_weights: str | None
    dimension: int
    rotation: str | None
    projection_dim: int

    @classmethod
    def of(cls, runtime: Runtime, model: str | None = None) -> "Space":
        """Space of an exported model."""
        files = [runtime.file("text"), runtime.file("vision")]
        return cls(
            model or str(runtime.folder.absolute()),
            # without model.safetensors, the ONNX files are all there is
            digest_files(sorted(runtime.folder.glob(WEIGHTS)) or files),
            digest_files(
                [
                    *files,
                    runtime.folder / "tokenizer.json",
                    runtime.folder / "preprocessor_config.json",
                ]
            ),
            runtime.config.get("teacher"),
            runtime.config.get("teacher_weights"),
            runtime.dimension,
            runtime.config.get("rotation"),
            runtime.config["projection_dim"],
        )

    def change(self, other: "Space") -> str | None:
        """What gives an image a different embedding than in the other space; None if the embedding is the same."""
        labels = {"files": "fingerprint of the ONNX files, the tokenizer and the preprocessing"}
        for name in ("dimension", "files"):
            if (found := getattr(self, name)) != (expected := getattr(other, name)):
                return f"{labels.get(name, name)}: {found} instead of {expected}"
        return None

    def rotations(self, other: "Space") -> tuple[str | None, str | None] | None:
        """Digests of the rotations from a common space to this one and to the other; None for an identity."""
        if self.projection_dim != other.projection_dim:
            return None
        if self.weights == other.weights:
            return None, None
        if self.teacher is not None and other.teacher is not None and self._has_teacher_of(other):
            return self.rotation, other.rotation
        if self._taught(other):
            return None, other.rotation
        return (self.rotation, None) if other._taught(self) else None

    def _has_teacher_of(self, other: "Space") -> bool:
        """Whether two students have the same teacher, by weights or, if one does not tell, by name."""
        if None in (self.teacher_weights, other.teacher_weights):
            return self.teacher == other.teacher
        return self.teacher_weights == other.teacher_weights

    def _taught(self, student: "Space") -> bool:
        """Whether this is a student's teacher, by weights or by name."""
        return self.weights == student.teacher_weights or self.model == student.teacher


def digest_files(files: list[Path]) -> str:
    """Digest of files and their names, 16 hexadecimal digits; equals the digest of teachers in `training/`."""
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, hashlib.blake2b).digest())
    return digest.hexdigest()


def create_folder(folder: Path, runtime: Runtime, space: Space) -> dict[str, Any]:
    """Create an empty index, again if a process was killed while it created one."""
    manifest = make_manifest(runtime, space, 1)
    data = data_folder(folder, manifest)
    found = [path for path in folder.glob("*") if not path.name.startswith(".") and path != data]
    found += [
        path for path in data.glob("*") if path.name not in (CATALOG, f"{CATALOG}-journal", VECTORS)
    ]
    # listed before the manifest is looked for: another process may be creating the index
    if found and not (folder / MANIFEST).exists():
        raise ValueError(
            f"index: {str(folder)!r} has other files and no index. Name an empty or new folder."
        )
    with write_lock(folder):
        if not (folder / MANIFEST).exists():  # else another process was faster
            shutil.rmtree(data, ignore_errors=True)  # of a process that was killed
            with closing(open_data(folder, manifest, create=True)[0]) as catalog:
                store_rotation(catalog, runtime)
            write_manifest(folder, manifest)
    return read_manifest(folder)


def make_manifest(runtime: Runtime, space: Space, number: int) -> dict[str, Any]:
    """Content of a manifest."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": uuid.uuid4().int % 2**32,  # which checksums depend on
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": number,
        "model_folder": str(runtime.folder.absolute()),
        "space": asdict(space),
    }


def data_folder(folder: Path, manifest: dict[str, Any]) -> Path:
    """Folder of the data that a manifest names."""
    return folder / f"data-{manifest['data']}"


def open_data(
    folder: Path, manifest: dict[str, Any], create: bool = False
) -> tuple[Catalog, VectorStore]:
    """Open the catalog and the vectors that a manifest names."""
    data = data_folder(folder, manifest)
    if create:
        data.mkdir(exist_ok=True)
    elif not (data / CATALOG).is_file() or not (data / CATALOG).stat().st_size:
        raise ValueError(
            f"index: {str(data / CATALOG)!r} is missing or empty, and the manifest names it. Restore it, or remove "
            f"{str(folder)!r} and index the photographs again."
        )
    key = manifest["id"]
    return Catalog(data / CATALOG, key), VectorStore(
        data / VECTORS, manifest["space"]["dimension"], key
    )


def store_rotation(catalog: Catalog, runtime: Runtime):
    """Keep the rotation of a model in the catalog of its index, so that other models can search without its folder."""
    if (runtime.folder / "model.safetensors").is_file() and runtime.rotation is not None:
        catalog.rotation = runtime.rotation


def remove_stale_data(folder: Path):
    """Remove the data that an upgrade has replaced. Call it within the lock of the index."""
    named = [
        read_manifest(folder, name) for name in (MANIFEST, UPGRADE) if (folder / name).is_file()
    ]
    for data in {*folder.glob("data-*")} - {data_folder(folder, manifest) for manifest in named}:
        if data.name[5:].isdecimal():  # else a copy that somebody made
            shutil.rmtree(data, ignore_errors=True)


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
        with closing(sqlite3.connect(folder / LOCK, timeout=0, isolation_level=None)) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            yield
    except (OSError, sqlite3.Error) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise BusyError(
                f"index: another process is writing to {str(folder)!r}. Wait for it to end, or stop it."
            ) from error
        cause = error.__cause__ or error  # of an error that the catalog has reported
        cause = getattr(cause, "strerror", None) or cause
        raise OSError(
            f"index: cannot write to {str(folder)!r} ({cause}). What was indexed before is intact. Free some space, "
            "or check the disk and its permissions, and run the same command again."
        ) from error


def write_manifest(folder: Path, manifest: dict[str, Any], name: str = MANIFEST):
    """Write a manifest atomically, with a checksum of its other fields."""
    scratch = folder / f".{name}.{os.getpid()}"
    with scratch.open("w", encoding="utf-8") as file:
        json.dump(manifest | {"checksum": _checksum(manifest)}, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(folder / name)


def read_manifest(folder: Path, file: str = MANIFEST) -> dict[str, Any]:
    """Read a manifest.

    Raises:
        ValueError: It is damaged, or of a different version.
    """
    hint = f"Remove {str(folder)!r} and index the photographs again, or choose a new folder with --index."
    try:
        manifest = json.loads((folder / file).read_text(encoding="utf-8"))
        found, checksum = (manifest["format"], manifest["version"]), manifest.pop("checksum", None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"index: {str(folder / file)!r} is not the manifest of an index ({error}). {hint}"
        ) from error
    if found != (FORMAT, VERSION):
        raise ValueError(
            f"index: {str(folder)!r} has format {found[0]!r} version {found[1]}, expected {FORMAT!r} version "
            f"{VERSION}. {hint}"
        )
    if checksum != _checksum(manifest):
        raise ValueError(
            f"index: {str(folder / file)!r} is damaged or was edited. Restore it. {hint}"
        )
    return manifest


def _checksum(manifest: dict[str, Any]) -> str:
    content = json.dumps(manifest, sort_keys=True).encode()
    return hashlib.blake2b(content, digest_size=8).hexdigest()
