"""Rows from wherever they lie."""

import importlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset


def load_source(source: str, split: str = "train", subset: str | None = None) -> Dataset:
    """Load rows from wherever they lie.

    Args:
        source: a parquet file or glob, a folder that `datasets` understands (such as an image folder with metadata), a
            Hub id, or `module:function` that returns a `datasets.Dataset`.
        split: which split to take where there are several.
        subset: which configuration of a Hub data set to take where it has several.

    Raises:
        ValueError: there is no such source.
    """
    path = Path(source).expanduser()
    try:
        if ":" in source and not path.exists():
            module, function = source.split(":")
            return getattr(importlib.import_module(module), function)()
        if source.endswith(".parquet"):
            return load_dataset("parquet", data_files=str(path), split="train")
        rows = load_dataset(str(path) if path.exists() else source, subset)
    except Exception as error:  # `datasets` raises many kinds; to a user they all mean that the source is not there
        raise ValueError(
            f"data: cannot load {source!r} ({type(error).__name__}: {error}). Give a parquet file, an image "
            "folder, a Hub id, or module:function."
        ) from error
    if isinstance(rows, DatasetDict):
        if split not in rows:
            raise ValueError(f"data: {source!r} has no split {split!r}, only {sorted(rows)}.")
        return rows[split]
    return rows


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
    if any("." in name for name in columns):
        rows = rows.flatten()
    for name in columns:
        if name not in rows.column_names:
            raise ValueError(f"{field}: {source!r} has no column {name!r}, only {rows.column_names}. {remedy}")
    return rows


def sample_rows(num_rows: int, most: int) -> list[int]:
    """All row numbers, or of more than `most`, evenly spaced ones from the first to the last."""
    return np.unique(np.linspace(0, num_rows - 1, most).astype(int)).tolist()
