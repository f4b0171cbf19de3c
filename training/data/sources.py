"""Open a data source, whole or as a stream of shards."""

import hashlib
import importlib
import logging
import os
import re
import sys
from collections.abc import Iterable
from glob import escape, glob
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet as pq
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    load_dataset,
)
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from huggingface_hub.constants import HF_HUB_CACHE

from training.utils.files import expanded
from training.utils.trust import FUNCTION

# its log repeats the error that it raises for a file that cannot be read
logging.getLogger("datasets.packaged_modules.parquet.parquet").setLevel(logging.CRITICAL)
ImageFolder.EXTENSIONS = [
    *ImageFolder.EXTENSIONS,
    ".avif",
    ".heic",
    ".heif",
]  # it would leave them out in silence

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
BUILDERS = {".parquet": "parquet", ".tar": "webdataset"}
# names of the folders of the train, validation and test splits; `datasets` knows the English ones
SPLIT_FOLDERS = (
    ("train", "training", "训练集", "训练", "訓練集", "訓練"),
    ("val", "valid", "validation", "dev", "验证集", "验证", "驗證集", "驗證"),
    ("test", "testing", "eval", "evaluation", "测试集", "测试", "測試集", "測試"),
)
STREAM_SHARDS = 64  # number of shards of a stream that is made of rows in memory
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # such as {0000..0042}
# types of a column, as `datasets` names them; a column of missing values has the type null
TEXTS = frozenset({"string", "large_string", "null"})
ENCODED = frozenset({"binary", "large_binary", "string", "large_string", "null"})
MAX_FILES = 100_000  # of a pattern such as {0000..0042}


def check_split(
    source: str | list[str],
    split: str,
    field: str = "data.sources.split",
    subset: str | None = None,
):
    """Raise ValueError for a split other than `train`, or a subset, of parquet files or tar shards: they have none."""
    names = [source] if isinstance(source, str) else list(source)
    if subset is not None and any(BUILDERS.get(_suffix(name)) for name in names):
        raise ValueError(
            f"{field.removesuffix('split')}subset: {names[0]!r} has none, got {subset!r}. Leave it out."
        )
    if split != "train" and any(BUILDERS.get(_suffix(name)) for name in names):
        raise ValueError(f"{field}: {names[0]!r} has no splits, got {split!r}. Leave it out.")


def load_source(
    source: str | list[str], split: str = "train", subset: str | None = None, field: str = "data"
) -> Dataset:
    """Load all rows of a source.

    Args:
        source: Parquet files or tar shards (webdataset layout), each a path, a glob, numbered files such as
            `{0000..0042}.tar`, a URL, or a list of these; a folder that `datasets` can load, such as an image folder
            with metadata; a Hub id; or `module:function` that returns a `datasets.Dataset`.
        split: Split to load, if the source has several.
        subset: Configuration to load, if the source is a Hub data set with several.
        field: Field of the recipe or the options; error messages start with it.

    Raises:
        ValueError: The source cannot be loaded, is a stream, or has no rows.
    """
    rows = _load(source, split, subset, streaming=False, field=field)
    if not isinstance(rows, Dataset):
        remedy = (
            "Set data.streaming: true, or return" if isinstance(rows, IterableDataset) else "Return"
        )
        raise ValueError(
            f"{field}: {source!r} is a {type(rows).__name__}, not a Dataset. {remedy} a datasets.Dataset."
        )
    if not len(rows):
        raise ValueError(f"{field}: {source!r} has no rows. Check what it reads.")
    return rows


def open_stream(
    source: str | list[str], split: str = "train", subset: str | None = None
) -> IterableDataset:
    """Open a source as a stream. Rows are read when the stream is iterated.

    Args:
        source: Any source that `load_source` accepts; a function may also return a `datasets.IterableDataset`.
        split: Split to read, if the source has several.
        subset: Configuration to read, if the source is a Hub data set with several.

    Raises:
        ValueError: The source cannot be opened, or its function does not return a data set.
    """
    rows = _load(source, split, subset, streaming=True, field="data")
    if isinstance(rows, Dataset):
        return rows.to_iterable_dataset(num_shards=max(1, min(STREAM_SHARDS, len(rows))))
    if not isinstance(rows, IterableDataset):
        raise ValueError(
            f"data: {source!r} is a {type(rows).__name__}, not a data set. Return a datasets.Dataset or "
            "IterableDataset."
        )
    return rows


def image_roots(source: str | list[str]) -> tuple[Path, ...] | None:
    """Folders where `datasets` finds the image files of a source.

    Returns:
        The folder itself, or the caches of a Hub id; empty for parquet files and tar shards, which hold their images;
        None for a function, which is the user's own code and may name any file.
    """
    names = [source] if isinstance(source, str) else list(source)
    if any(BUILDERS.get(_suffix(name)) for name in names):
        return ()
    path = expanded(next(iter(names), ""))
    if path.exists():
        return (path.resolve(),)
    if ":" in names[0]:
        return None
    caches = (
        datasets.config.HF_DATASETS_CACHE,
        datasets.config.DOWNLOADED_DATASETS_PATH,
        HF_HUB_CACHE,
    )
    return tuple(Path(cache).resolve() for cache in caches)


def require_unicode(paths: Iterable[Path], field: str = "data"):
    """Raise ValueError for the path of an image that is not UTF-8, because it cannot be stored in a data set."""
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            raise ValueError(
                f"{field}: the name of '{shown}' is not UTF-8, as in a zip file from Chinese Windows. Rename all "
                "files in a folder with: convmv -r -f gbk -t utf-8 --notest FOLDER."
            ) from error


def digest_sources(names: Iterable[str], with_states: bool = True) -> str:
    """Digest of the local files of a source, 16 hexadecimal digits.

    Args:
        names: Files, glob patterns, numbered files such as `{0000..0042}.tar`, or folders. Others, such as Hub ids,
            add nothing.
        with_states: Whether sizes and times of the files count, and not their paths alone.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in _numbered(list(names)):
        path = expanded(name)
        listed = (
            path.rglob("*")
            if path.is_dir()
            else map(Path, [str(path)] if path.exists() else glob(str(path)))
        )
        for file in sorted(each for each in listed if each.is_file()):
            state = file.stat()
            states = f"{state.st_size} {state.st_mtime_ns}" if with_states else ""
            digest.update(f"{os.fsencode(file)!r} {states}\n".encode())
    return digest.hexdigest()


def _load(
    source: str | list[str], split: str, subset: str | None, streaming: bool, field: str
) -> Dataset | IterableDataset:
    name = source if isinstance(source, str) else next(iter(source), "")
    if (
        Path(name).suffix.lower() in TABLES and expanded(name).is_file()
    ):  # would be looked up on the Hub
        raise ValueError(
            f"{field}: {name!r} is a table, which only training/finetune.py reads. Write it as parquet."
        )
    for each in [source] if isinstance(source, str) else source:
        refuse_special_file(each, field)
    try:
        rows = _open(source, split, subset, streaming)
    except Exception as error:  # `datasets` raises many types that all mean the same to a user
        check_parquet(source, field)
        for name in filter(str.strip, [source] if isinstance(source, str) else source):
            folder = expanded(name)
            require_unicode(folder.rglob("*") if folder.is_dir() else (), field)
        inner = error.__cause__ or error
        cause = " ".join(f"{type(inner).__name__}: {inner}".split())
        raise ValueError(
            f"{field}: cannot load {source!r} ({cause}). Give parquet files, tar shards, an "
            "image folder, a Hub id, or module:function; write or download damaged files again."
        ) from error
    if isinstance(rows, (DatasetDict, IterableDatasetDict)):
        if split not in rows:
            raise ValueError(
                f"{field}: {source!r} has no split {split!r}, only {sorted(rows)}. Name one of these."
            )
        return rows[split]
    return rows


def refuse_special_file(name: str, field: str):
    """Refuse a pipe or a device, which a reader might wait for without end.

    Raises:
        ValueError: The path exists, and is neither a file nor a folder.
    """
    path = expanded(name)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(
            f"{field}: {name!r} is neither a file nor a folder. Copy its content to a file."
        )


def check_parquet(source: str | list[str], field: str):
    """Refuse local parquet files that are damaged. `datasets` does not name the file."""
    names = [source] if isinstance(source, str) else source
    for path in (
        found for name in names for found in sorted(glob(str(expanded(name)), recursive=True))
    ):
        try:
            if path.lower().endswith(".parquet"):
                pq.read_schema(path)
        except (OSError, pyarrow.ArrowException) as damage:
            raise ValueError(
                f"{field}: {path!r} is damaged ({damage}). Write or download the file again."
            ) from damage


def _open(source: str | list[str], split: str, subset: str | None, streaming: bool):
    names = [source] if isinstance(source, str) else list(source)
    if not names or not all(
        name.strip() for name in names
    ):  # an empty name would be the current folder
        raise ValueError("the name is empty")
    builders = {BUILDERS.get(_suffix(name)) for name in names}
    if len(builders) == 1 and (builder := builders.pop()):
        files = [name if "://" in name else str(expanded(name)) for name in _numbered(names)]
        return load_dataset(builder, data_files=files, split="train", streaming=streaming)
    if len(names) != 1:
        raise ValueError("a list must contain only parquet files or only tar shards")
    (name,) = names
    path = expanded(name)
    if FUNCTION.fullmatch(name) and not path.exists():
        module, function = name.split(":")
        sys.path.append(
            os.getcwd()
        )  # a user's modules; `python training/X.py` has the script's folder alone
        return getattr(importlib.import_module(module), function)()
    if path.is_dir() and _is_one_split(path):
        if (
            split not in ("train", "test") or subset is not None
        ):  # which are the defaults of commands
            raise ValueError(
                f"the folder has neither splits nor subsets, got {split!r}, {subset!r}"
            )
        return load_dataset(
            "imagefolder", data_files={split: f"{escape(str(path))}/**"}, streaming=streaming
        )
    return load_dataset(str(path) if path.exists() else name, subset, streaming=streaming)


def _is_one_split(folder: Path) -> bool:
    """Whether a folder holds images, perhaps in class folders, and no splits.

    `datasets` would take the photograph train.jpg, or a class folder of this name, for a split and leave out all else.
    """
    words, files = set[str](), list[Path]()
    for _, names, found in os.walk(folder):
        words.update(word for name in names for word in re.split(r"[\W_]+", name.lower()))
        files += map(Path, found)
    kinds = sum(not words.isdisjoint(kind) for kind in SPLIT_FOLDERS)
    others = {
        *BUILDERS,
        ".arrow",
        ".json",
        *TABLES,
    }  # with the data; metadata.csv and .jsonl belong to images
    is_other = any(_suffix(file.name) in others and file.stem != "metadata" for file in files)
    has_images = any(file.suffix.lower() in ImageFolder.EXTENSIONS for file in files)
    return has_images and kinds < 2 and not is_other and not (folder / "README.md").exists()


def _suffix(name: str) -> str:
    return Path(name.partition("?")[0].lower().removesuffix(".gz")).suffix


def _numbered(names: list[str]) -> list[str]:
    """Expand numbered files such as `{0000..0042}.tar`."""
    expanded: list[str] = []
    for name in names:
        if (match := RANGE.search(name)) is None:
            expanded.append(name)
            continue
        first, last = match.groups()
        if int(last) - int(first) >= MAX_FILES:
            raise ValueError(
                f"{match.group()} names more than {MAX_FILES:,} files; write a glob pattern instead"
            )
        numbers = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
        expanded += _numbered(
            [name[: match.start()] + number + name[match.end() :] for number in numbers]
        )
    return expanded


def require_columns(
    rows: Dataset, columns: Iterable[str], source: str, remedy: str, field: str = "data"
) -> Dataset:
    """Check that rows have the given columns, and flatten nested columns if one is given.

    Args:
        rows: Rows of a source.
        columns: Names of columns, or of fields of nested columns such as `translation.en`.
        source: Name of the source, for the error message.
        remedy: Sentence that tells the user how to name the right column, for the error message.
        field: Field of the recipe or the options; error messages start with it.

    Returns:
        The rows; every field of a nested column is a column of its own if `columns` names one.

    Raises:
        ValueError: A column is missing.
    """
    columns = list(columns)
    if any("." in name and name not in rows.column_names for name in columns):
        for name in columns:  # the images stay whole
            kind = rows.features.get(name)
            rows = (
                rows.cast_column(name, Image())
                if isinstance(kind, dict) and "bytes" in kind
                else rows
            )
        rows = rows.flatten()
    for name in columns:
        if name not in rows.column_names:
            raise ValueError(
                f"{field}: {source!r} has no column {name!r}, only {rows.column_names}. {remedy}"
            )
    return rows


def require_images(
    features: Features | None, columns: Iterable[str], source: str, field: str = "data"
):
    """Check that columns hold encoded images or their paths. `datasets` would turn lists of floats into black images.

    Args:
        features: Types of all columns; None if they are not known, as in some streams.
        columns: Names of the image columns.
        source: Name of the source, for the error message.
        field: Field of the recipe or the options; error messages start with it.

    Raises:
        ValueError: A column holds anything else.
    """
    for name in columns:
        kind = (features or {}).get(name)
        is_struct = isinstance(kind, dict) and "bytes" in kind
        if (
            kind is None
            or isinstance(kind, Image)
            or is_struct
            or getattr(kind, "dtype", None) in ENCODED
        ):
            continue
        raise ValueError(
            f"{field}: column {name!r} of {source!r} holds {_type_name(kind)}, not encoded images. Store images as "
            "files (PNG, JPEG, WebP), for example by cast_column with datasets.Image."
        )


def require_texts(
    features: Features | None, columns: Iterable[str], source: str, field: str = "data"
):
    """Check that columns hold strings or lists of strings, with the arguments of `require_images`.

    Raises:
        ValueError: A column holds anything else, such as numbers or bytes.
    """
    for name in columns:
        kind = (features or {}).get(name)
        inner = getattr(kind, "feature", kind)
        if kind is None or getattr(inner, "dtype", None) in TEXTS:
            continue
        raise ValueError(
            f"{field}: column {name!r} of {source!r} holds {_type_name(kind)}, not text. Name a column of strings, or "
            "of lists of strings."
        )


def _type_name(kind: Any) -> str:
    return str(getattr(kind, "dtype", None) or type(kind).__name__)


def evenly_spaced_rows(num_rows: int, max_rows: int) -> list[int]:
    """Return at most `max_rows` evenly spaced row numbers, including the first and the last one."""
    return np.unique(np.linspace(0, num_rows - 1, max_rows).astype(int)).tolist()
