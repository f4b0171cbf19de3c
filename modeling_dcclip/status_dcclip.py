"""What an index has: its folders, its model, its size, and what it left out."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .index_dcclip import Index


@dataclass(frozen=True)
class Status:
    """State of an index.

    Args:
        files: Number of files.
        bytes: Size of the index on the disk, in bytes.
        model: Folder of the model that wrote it.
        has_model: Whether this folder is there.
        dtype: How vectors are stored.
        dimension: Number of dimensions of the vectors.
        engine: How vectors are searched: `scan` or `usearch`.
        folders: Number of files of the index below each of its folders, by path.
        missing: Folders of the index that are not there now.
        unmounted: Number of files of the index below each directory whose disk is not mounted now, by path.
        forgotten: Folders inside indexed ones that stay out of the index.
        excluded: Patterns of what stays out of folders, by folder.
        failures: Number of files that could not be read, by cause.
    """

    files: int
    bytes: int
    model: str
    has_model: bool
    dtype: str
    dimension: int
    engine: str
    folders: dict[str, int]
    missing: list[str]
    unmounted: dict[str, int]
    forgotten: list[str]
    excluded: dict[str, list[str]]
    failures: dict[str, int]


def read_status(index: "Index") -> Status:
    """Read the state of an index. No photograph and no model is opened.

    Args:
        index: Open index.
    """
    catalog, model = index.catalog, Path(index.manifest["model_folder"])
    folders = catalog.folders()
    return Status(
        files=len(index),
        bytes=sum(map(_size, index.folder.rglob("*"))),
        model=str(model),
        has_model=(model / "config.json").is_file(),
        dtype=index.manifest["dtype"],
        dimension=index.space.dimension,
        engine=index.engine,
        folders={str(folder): catalog.count_below(folder) for folder in folders},
        missing=[str(folder) for folder in folders if not folder.is_dir()],
        unmounted={str(path): files for path in catalog.unmounted() if (files := catalog.count_below(path))},
        forgotten=[str(folder) for folder in catalog.forgotten()],
        excluded={str(folder): patterns for folder, patterns in catalog.excluded().items()},
        failures=dict(Counter(cause for _, cause in catalog.failures()).most_common()),
    )


def _size(path: Path) -> int:
    """Size of a file in bytes; 0 of a folder, and of a file that another process has removed meanwhile."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
