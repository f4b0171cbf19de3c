"""Rows from wherever they lie, whole or as a stream of shards."""

import importlib
import logging
import re
from collections.abc import Iterable
from glob import glob
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset

logger = logging.getLogger(__name__)

BUILDERS = {".parquet": "parquet", ".tar": "webdataset"}
STREAM_SHARDS = 64  # of a stream that is made of rows in memory
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
TAR_END = bytes(1024)  # two blocks of zeros close a tar file


def load_source(source: str | list[str], split: str = "train", subset: str | None = None) -> Dataset:
    """Load rows from wherever they lie.

    Args:
        source: parquet files or tar shards (webdataset layout), each a path, a glob, numbered files such as
            `{0000..0042}.tar`, a URL, or a list of these; a folder that `datasets` understands (such as an image
            folder with metadata); a Hub id; or `module:function` that returns a `datasets.Dataset`.
        split: which split to take where there are several.
        subset: which configuration of a Hub data set to take where it has several.

    Raises:
        ValueError: there is no such source, or it is a stream.
    """
    rows = _load(source, split, subset, streaming=False)
    if not isinstance(rows, Dataset):
        raise ValueError(
            f"data: {source!r} gives a {type(rows).__name__}, where rows are read whole. Set data.streaming: true, or "
            "return a datasets.Dataset."
        )
    return rows


def open_stream(source: str | list[str], split: str = "train", subset: str | None = None) -> IterableDataset:
    """The same as a stream, of which nothing is read yet but its beginning.

    Args:
        source: as in `load_source`; a function may return an `IterableDataset` too.
        split: likewise.
        subset: likewise.

    Raises:
        ValueError: there is no such source.
    """
    rows = _load(source, split, subset, streaming=True)
    if isinstance(rows, Dataset):
        return rows.to_iterable_dataset(num_shards=max(1, min(STREAM_SHARDS, len(rows))))
    return rows


def _load(source: str | list[str], split: str, subset: str | None, streaming: bool) -> Dataset | IterableDataset:
    try:
        rows = _open(source, subset, streaming)
    except Exception as error:  # `datasets` raises many kinds; to a user they all mean that the source is not there
        raise ValueError(
            f"data: cannot load {source!r} ({type(error).__name__}: {error}). Give parquet files, tar shards, an "
            "image folder, a Hub id, or module:function."
        ) from error
    if isinstance(rows, (DatasetDict, IterableDatasetDict)):
        if split not in rows:
            raise ValueError(f"data: {source!r} has no split {split!r}, only {sorted(rows)}.")
        return rows[split]
    return rows


def _open(source: str | list[str], subset: str | None, streaming: bool):
    names = [source] if isinstance(source, str) else list(source)
    builders = {BUILDERS.get(_suffix(name)) for name in names}
    if len(builders) == 1 and (builder := builders.pop()):
        files = [name if "://" in name else str(Path(name).expanduser()) for name in _numbered(names)]
        _warn_of_cut_shards(files)
        return load_dataset(builder, data_files=files, split="train", streaming=streaming)
    if len(names) != 1:
        raise ValueError("a list must be of parquet files alone, or of tar shards alone")
    (name,) = names
    path = Path(name).expanduser()
    if ":" in name and not path.exists():
        module, function = name.split(":")
        return getattr(importlib.import_module(module), function)()
    return load_dataset(str(path) if path.exists() else name, subset, streaming=streaming)


def _warn_of_cut_shards(files: list[str]):
    """A tar file that was cut between two of its members reads as one that ends there; only its missing end tells."""
    plain = [name for name in files if name.lower().endswith(".tar") and "://" not in name]
    for path in (Path(found) for name in plain for found in glob(name, recursive=True)):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - len(TAR_END)))
            if file.read() != TAR_END:
                logger.warning("data: %s has no end mark. It may have been cut: fetch or write it again.", path)


def _suffix(name: str) -> str:
    return Path(name.partition("?")[0].lower().removesuffix(".gz")).suffix


def _numbered(names: list[str]) -> list[str]:
    """Each name, or all that `{0000..0042}` in it stands for."""
    found: list[str] = []
    for name in names:
        if (match := RANGE.search(name)) is None:
            found.append(name)
            continue
        first, last = match.groups()
        numbers = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
        found += _numbered([name[: match.start()] + number + name[match.end() :] for number in numbers])
    return found


def require_columns(rows: Dataset, columns: Iterable[str], source: str, remedy: str, field: str = "data") -> Dataset:
    """The rows, with a column of their own for each field of a nested column, such as `translation.en`.

    Args:
        rows: as they were loaded.
        columns: that must be there.
        source: their name, for the message.
        remedy: how to name the right column, for the message.
        field: of the recipe or the options, for the message.

    Raises:
        ValueError: a column is missing.
    """
    columns = list(columns)
    if any("." in name and name not in rows.column_names for name in columns):
        rows = rows.flatten()
    for name in columns:
        if name not in rows.column_names:
            raise ValueError(f"{field}: {source!r} has no column {name!r}, only {rows.column_names}. {remedy}")
    return rows


def sample_rows(num_rows: int, most: int) -> list[int]:
    """All row numbers, or of more than `most`, evenly spaced ones from the first to the last."""
    return np.unique(np.linspace(0, num_rows - 1, most).astype(int)).tolist()
