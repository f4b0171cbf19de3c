"""The one reader of a user's images, captions and classes: for training, fine-tuning, evaluation and embedding.

A source is one of:

- Parquet files or tar shards (webdataset layout): a path, a glob pattern, numbered files such as `{0000..0042}.tar`, a
  URL, or a list of these.
- A table in UTF-8, or in the encoding that the user names: `.csv` (commas), `.tsv` (tabs), `.jsonl` or `.ndjson`, with
  one row per image. The column `file_name`, or the user's image column, has paths relative to the table's folder.
- A folder. These rules decide how it is read:

  1. Names that start with a dot, system folders such as `@eaDir`, and folders that a command of this project has
     written are passed over.
  2. Folders are splits if their whole names are names of splits (`SPLITS`), and if there are two kinds of them or
     nothing but them. `bullet_train` and `test_tube` are classes. A training reads the split `train`, an evaluation
     the split `test`, unless the user names a different one; a split that is named must exist. Without splits, all
     rows are read.
  3. With parquet files, `datasets` reads the folder. Otherwise come tar shards, then a single table, then images.
  4. Images with text files of the same name (1.txt for 1.jpg) have the column `caption`. If all images are in folders,
     the column `label` has the name of the first one: its class. The column `image` has the file.

- A Hub id with or without `@revision`, read by `datasets`.
- `module:function`, which returns a `datasets.Dataset`, or for a stream an `IterableDataset`.

Images that the data name by path are opened only in the folder of the data, and URLs never (`CellRules`). An image
that does not decode is never left out in silence: `images.read_image` returns the cause, which a training
counts, fine-tuning lists, and an evaluation refuses with the row.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow
import pyarrow.compute as pc
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
from huggingface_hub import snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE

from modeling_dcclip.image_dcclip import SUFFIXES, is_hidden
from training.utils.files import expanded, is_claimed
from training.utils.keys import Digest, digest_key
from training.utils.reading import read_text, require_regular
from training.utils.trust import FUNCTION, call_function

# its log repeats the error that it raises for a file that cannot be read
logging.getLogger("datasets.packaged_modules.parquet.parquet").setLevel(logging.CRITICAL)

Cell = dict[str, Any]

TABLES = {".csv": ",", ".tsv": "\t", ".jsonl": None, ".ndjson": None}  # with separators
BUILDERS = {".parquet": "parquet", ".tar": "webdataset"}
SPLITS = {
    "train": ("train", "training", "训练集", "训练", "訓練集", "訓練"),
    "validation": ("val", "valid", "validation", "dev", "验证集", "验证", "驗證集", "驗證"),
    "test": ("test", "testing", "eval", "evaluation", "测试集", "测试", "測試集", "測試"),
}
KIND_OF = {name: kind for kind, names in SPLITS.items() for name in names}
CLASS_NAMES_FILE = "classnames.txt"  # names of numbered labels in the data sets of clip-benchmark
SHARDED_PREFIX = "/wds_"  # prefix of their names; their folders are splits of tar shards
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@\S+)?")
STREAM_SHARDS = 64  # number of shards of a stream that is made of rows in memory
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # such as {0000..0042}
# types of a column, as `datasets` names them; a column of missing values has the type null
TEXTS = frozenset({"string", "large_string", "null"})
ENCODED = TEXTS | {"binary", "large_binary"}
URL_REFUSED = "image is a URL, and must be downloaded first"
PATH_REFUSED = "image is a path outside the data, and allow_paths is off"
FILE_MISSING = "image file is missing"
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Opened:
    """A source that was opened.

    Args:
        rows: Its rows: a `datasets.Dataset`, or an `IterableDataset` of a stream.
        form: Its form, such as `class folders`.
        split: Split that was read; None if the source has no splits.
        revision: Commit of a data set on the Hub.
        class_names: Names of numbered labels, if the data have the file `classnames.txt`.
    """

    rows: Any
    form: str
    split: str | None = None
    revision: str | None = None
    class_names: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a source is read.

    Args:
        split: Split to read. Default: `usual_split`, if the source has splits.
        usual_split: Split that the command reads unless the user names one.
        subset: Configuration of a Hub data set that has several.
        image_column: Column of a table that has the paths of the images.
        encoding: Encoding of tables and text files.
        streaming: Whether the rows are read only when they are needed.
        field: Field of the recipe or the options; error messages start with it.
    """

    split: str | None = None
    usual_split: str = "train"
    subset: str | None = None
    image_column: str = "image"
    encoding: str = "utf-8"
    streaming: bool = False
    field: str = "data"

    @classmethod
    def of(cls, split: str, **options: Any) -> "Reading":
        """Read the split of an option whose default is `train` or `test`, which then need not exist."""
        options["usual_split" if split in ("train", "test") else "split"] = split
        return cls(**options)

    @property
    def codec(self) -> str:
        """Encoding for Python; a byte order mark is passed over."""
        return "utf-8-sig" if self.encoding == "utf-8" else self.encoding

    def unreadable(self, path: Path, error: Exception) -> ValueError:
        """The error for a text file of the user's. The encoding is not guessed: 猫 in GBK is è in UTF-8."""
        return ValueError(
            f"{self.field}: {str(path)!r} cannot be read as {self.encoding} ({error}). Save it as UTF-8, with one row "
            "per image and captions in quotation marks; fine-tuning also reads what --encoding names, such as gb18030."
        )

    def has_no_splits(self, name: str):
        """Refuse a split or subset that the user names for a source that has none."""
        for kind, value in (("split", self.split), ("subset", self.subset)):
            if value is not None:
                raise ValueError(
                    f"{self.field}: {name!r} has no {kind}s, got {kind} {value!r}. Leave it out."
                )


def open_source(source: str | list[str], reading: Reading | None = None) -> Opened:
    """Open a source by the rules of this module.

    Raises:
        ValueError: There is nothing of a known form, it is damaged or empty, or it has no such split.
    """
    reading = reading or Reading()
    opened = _open(source, reading)
    return replace(opened, rows=_checked(opened.rows, source, reading))


def _open(source: str | list[str], reading: Reading) -> Opened:
    names = _names(source)
    local = [Path(file) for name in _numbered(names) for file in sorted(glob(str(expanded(name))))]
    for path in local:
        require_regular(path, reading.field)
    kinds = {BUILDERS.get(_suffix(name)) for name in names}
    if len(kinds) == 1 and (kind := kinds.pop()):
        reading.has_no_splits(names[0])
        files = [name if "://" in name else str(expanded(name)) for name in _numbered(names)]
        # the cache of `datasets` goes by the time of a file alone, which a copy may keep
        states = {str(path): path.stat() for path in local}
        content = digest_key(
            {
                name: [state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
                for name, state in states.items()
            }
        )
        rows = _load(
            source, reading, kind, name=f"files-{content}", data_files=files, split="train"
        )
        return Opened(rows, f"{kind} files")
    name = names[0].strip() if len(names) == 1 else ""
    path = expanded(name)
    if name and path.is_dir():  # an empty name would be the current folder
        return _open_folder(path, reading)
    if _suffix(name) in TABLES:
        reading.has_no_splits(name)
        return _open_table(path, reading)
    if FUNCTION.fullmatch(name):
        with _loading(name, reading):
            rows = call_function(name)
        return Opened(_select_split(rows, name, reading)[0], name)
    if path.exists() or not HUB_ID.fullmatch(name):
        raise ValueError(
            f"{reading.field}: cannot load {source!r}. Give a table with one row per image (.csv, .tsv, .jsonl), "
            "a folder of images, a Hub id, module:function, or a list of parquet files or of tar shards alone."
        )
    return _open_hub(name, reading)


def load_source(source: str | list[str], split: str = "train", **options: Any) -> Dataset:
    """Load all rows of a source.

    Args:
        source: Source, in any form of this module.
        split: Split to load, if the source has several.
        options: Other fields of `Reading`.

    Raises:
        ValueError: The source cannot be loaded, is a stream, or has no rows.
    """
    return open_source(source, Reading.of(split, **options)).rows


def open_stream(source: str | list[str], split: str = "train", **options: Any) -> IterableDataset:
    """Open a source as a stream, with the arguments of `load_source`. Rows are read when the stream is iterated."""
    return load_source(source, split, streaming=True, **options)


def _checked(rows: Any, source: str | list[str], reading: Reading) -> Any:
    """Rows that can be looked up, or a stream; what the user's function returns may be neither."""
    if isinstance(rows, Dataset):
        if not len(rows):
            raise ValueError(f"{reading.field}: {source!r} has no rows. Check what it reads.")
        shards = min(STREAM_SHARDS, len(rows))
        return rows.to_iterable_dataset(num_shards=shards) if reading.streaming else rows
    is_stream = isinstance(rows, IterableDataset)
    if is_stream and reading.streaming:
        return rows
    remedy = "Set data.streaming: true, or return" if is_stream else "Return"
    raise ValueError(
        f"{reading.field}: {source!r} is a {type(rows).__name__}, not a Dataset. {remedy} a datasets.Dataset."
    )


@contextmanager
def _loading(source: str | list[str], reading: Reading) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # `datasets` raises many types that all mean the same to a user
        check_parquet(source, reading.field)
        inner = error.__cause__ or error
        cause = " ".join(f"{type(inner).__name__}: {inner}".split())
        raise ValueError(
            f"{reading.field}: cannot load {source!r} ({cause}). Give files, a folder, a Hub id or module:function "
            "that can be read; write or download damaged files again."
        ) from error


def _load(source: str | list[str], reading: Reading, *arguments: Any, **options: Any) -> Any:
    with _loading(source, reading):
        return load_dataset(*arguments, streaming=reading.streaming, **options)


def _select_split(rows: Any, name: str, reading: Reading) -> tuple[Any, str | None]:
    """Rows of the split, and its name; all rows of data without splits."""
    if not isinstance(rows, (DatasetDict, IterableDatasetDict)):
        reading.has_no_splits(name)
        return rows, None
    wanted = reading.split or reading.usual_split
    if len(rows) == 1 and reading.split is None:
        wanted = next(iter(rows))
    if wanted not in rows:
        raise ValueError(
            f"{reading.field}: {name!r} has no split {wanted!r}, only {', '.join(sorted(rows))}. Name one of these."
        )
    return rows[wanted], wanted


def _open_hub(name: str, reading: Reading) -> Opened:
    repository, _, revision = name.partition("@")
    split = reading.split or reading.usual_split
    if SHARDED_PREFIX in repository:
        with _loading(name, reading):
            snapshot = snapshot_download(
                repository,
                repo_type="dataset",
                revision=revision or None,
                allow_patterns=[f"{split}/*.tar", CLASS_NAMES_FILE],
            )
        return replace(_open_folder(Path(snapshot), reading), revision=Path(snapshot).name)
    rows = _load(name, reading, repository, reading.subset, split=split, revision=revision or None)
    commits = re.findall(r"hf://[^@ ]+@(\w+)/", " ".join(rows.info.download_checksums or {}))
    return Opened(rows, "Hub data set", split, next(iter(commits), None))


def _open_folder(folder: Path, reading: Reading) -> Opened:
    files, outputs = list_files(folder)
    name = str(folder)
    if any(_suffix(file.name) == ".parquet" for file in files):
        if outputs:  # `datasets` would take its files for a split
            raise ValueError(
                f"{reading.field}: {name!r} holds {str(outputs[0])!r}, which a command of this project wrote. Move it "
                f"out of the data, or name the files, such as '{name}/*.parquet'."
            )
        rows, split = _select_split(_load(name, reading, name, reading.subset), name, reading)
        return Opened(rows, "parquet files", split)
    within = _split_folder(folder, reading)
    split = None if within == folder else within.name
    if split is None:
        reading.has_no_splits(name)
    files = [file for file in files if file.is_relative_to(within)]
    tables = [file for file in files if file.parent == within and _suffix(file.name) in TABLES]
    if shards := [str(file) for file in files if _suffix(file.name) == ".tar"]:
        rows = _load(name, reading, "webdataset", data_files=shards, split="train")
        opened = Opened(rows, "tar shards")
    elif len(tables) > 1:
        names = ", ".join(file.name for file in tables)
        raise ValueError(
            f"{reading.field}: {name!r} has several tables: {names}. Name one of them."
        )
    elif tables:
        opened = _open_table(tables[0], reading)
    else:
        opened = _open_images(within, files, reading)
    class_names = None
    listed = folder / CLASS_NAMES_FILE
    if listed.is_file():
        lines = _read_text(listed, reading).splitlines()
        class_names = [line.strip() for line in lines if line.strip()]
    return replace(opened, split=split, class_names=class_names)


def list_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files in a folder and in all folders below it, sorted, and the outputs of this project's commands among them.

    Hidden and system folders hold copies, and are left out with the outputs. Links are followed, each folder once.
    """
    files: list[Path] = []
    outputs: list[Path] = []
    seen: set[str] = set()
    for parent, names, file_names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            names.clear()
            continue
        seen.add(real)
        below = [Path(parent, name) for name in names]
        outputs += filter(is_claimed, below)
        names[:] = [path.name for path in below if not _is_passed(path)]
        paths = [Path(parent, name) for name in file_names if not is_hidden(name)]
        files += filter(Path.is_file, paths)  # no pipe or device
    return sorted(files), outputs


def _is_passed(folder: Path) -> bool:
    """Whether a folder is hidden, of the system, or an output of this project's commands."""
    return is_hidden(folder.name) or is_claimed(folder)


def _split_folder(folder: Path, reading: Reading) -> Path:
    """The folder of the split; the folder itself if it has no splits.

    Raises:
        ValueError: It has splits, but not this one.
    """
    if reading.split is not None and (folder / reading.split).is_dir():
        return folder / reading.split
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not _is_passed(path))
    kinds = {path: KIND_OF[path.name.lower()] for path in folders if path.name.lower() in KIND_OF}
    if not kinds or (len({*kinds.values()}) < 2 and len(kinds) < len(folders)):
        return folder
    wanted = reading.split or reading.usual_split
    for path, kind in kinds.items():
        if kind == KIND_OF.get(wanted.lower()):
            return path
    raise ValueError(
        f"{reading.field}: {str(folder)!r} has no folder for the split {wanted!r}, only "
        f"{', '.join(path.name for path in kinds)}. Name one of these."
    )


def _open_images(folder: Path, files: list[Path], reading: Reading) -> Opened:
    """Images with a text file for each, in class folders, or neither."""
    images = [file.absolute() for file in files if _suffix(file.name) in SUFFIXES]
    if not images:
        raise ValueError(
            f"{reading.field}: {str(folder)!r} has neither images nor a table. Add images in one folder per class, or "
            "a CSV file with paths and captions."
        )
    columns: dict[str, Any] = {"image": [str(image) for image in images]}
    texts = [_caption(image.with_suffix(".txt"), reading) for image in images]
    paths = [image.relative_to(folder.absolute()).parts for image in images]
    form = "images"
    if sum(text is not None for text in texts) > len(texts) / 2:
        columns["caption"] = texts
        form = "images with text files"
    elif all(len(path) > 1 for path in paths):
        columns["label"] = [path[0] for path in paths]
        form = "class folders"
    return Opened(_dataset(columns, "image", folder, reading), form)


def _caption(path: Path, reading: Reading) -> str | None:
    """Content of the text file of an image in one line; None without one."""
    return " ".join(_read_text(path, reading).split()) or None if path.is_file() else None


def _read_text(path: Path, reading: Reading) -> str:
    try:
        return read_text(path, reading.codec)
    except (OSError, UnicodeError, LookupError) as error:
        raise reading.unreadable(path, error) from error


def _open_table(path: Path, reading: Reading) -> Opened:
    separator = TABLES[_suffix(path.name)]
    try:
        if separator is None:
            frame = pandas.read_json(path, lines=True, dtype=False, encoding=reading.codec)
        else:
            frame = pandas.read_csv(
                path, sep=separator, dtype=str, na_values=[""], keep_default_na=False,
                encoding=reading.codec,
            )  # fmt: skip
            if not isinstance(frame.index, pandas.RangeIndex):
                raise ValueError(f"row {frame.index[0]!r} has more cells than the header")
    except (OSError, ValueError, LookupError) as error:
        raise reading.unreadable(path, error) from error
    frame = frame.dropna(how="all").rename(columns=str.strip)
    columns = frame.astype(object).where(frame.notna(), None).to_dict("list")
    column = reading.image_column
    if column not in columns and "file_name" in columns:
        columns[column] = columns.pop("file_name")
    if column in columns:
        columns[column] = [_image_path(path.parent, cell) for cell in columns[column]]
    rows = _dataset(columns, column, path, reading)
    return Opened(rows, f"{path.suffix[1:].upper()} file")


def _dataset(columns: dict[str, Any], image_column: str, path: Path, reading: Reading) -> Dataset:
    """Columns as a data set; the image column has paths."""
    try:
        rows = Dataset.from_dict(columns)
    except UnicodeEncodeError as error:
        shown = os.fsencode(error.object).decode("utf-8", "backslashreplace")
        raise ValueError(
            f"{reading.field}: the name of '{shown}' is not UTF-8, as in a zip file from Chinese Windows. Rename all "
            "files in a folder with: convmv -r -f gbk -t utf-8 --notest FOLDER."
        ) from error
    except (pyarrow.ArrowException, OverflowError, TypeError) as error:
        raise ValueError(
            f"{reading.field}: {str(path)!r} has a column with values of different types ({error}). Write each column "
            "as strings, or as lists of strings."
        ) from error
    return rows.cast_column(image_column, Image()) if image_column in columns else rows


def _image_path(folder: Path, name: Any) -> str | None:
    """Absolute path of an image file that a table names; a URL stays a URL."""
    if not isinstance(name, str) or not name.strip():
        return None
    name = name.strip().removeprefix("file://").replace("\\", "/")
    return name if "://" in name else os.path.join(folder.absolute(), name)


def digest_sources(source: str | list[str], with_states: bool = True) -> str:
    """Digest of the local files of a source. Others, such as those of a Hub id, add nothing.

    Args:
        source: Source, in any form of this module.
        with_states: Whether sizes and times of the files count, and not their paths alone.
    """
    digest = Digest()
    for name in _numbered(_names(source)):
        path = expanded(name)
        if path.is_dir():
            files, _ = list_files(path)
        elif path.exists() and _suffix(name) in TABLES:
            # it names images there, also without a suffix; a log that a run writes beside it does not count
            beside, _ = list_files(path.parent)
            images = [file for file in beside if _suffix(file.name) in {"", *SUFFIXES}]
            files = [path, *images]
        else:
            files = sorted(Path(each) for each in glob(str(path)))
        for file in files:
            state = file.stat()
            states = f"{state.st_size} {state.st_mtime_ns}" if with_states else ""
            digest.add(os.fsencode(file), states)
    return digest.hex()


def check_parquet(source: str | list[str], field: str):
    """Refuse local parquet files that are damaged. `datasets` does not name the file."""
    for name in _names(source):
        for path in sorted(glob(str(expanded(name)), recursive=True)):
            try:
                if path.lower().endswith(".parquet"):
                    pq.read_schema(path)
            except (OSError, pyarrow.ArrowException) as damage:
                raise ValueError(
                    f"{field}: {path!r} is damaged ({damage}). Write or download the file again."
                ) from damage


def _names(source: str | list[str]) -> list[str]:
    return [source] if isinstance(source, str) else list(source)


def _suffix(name: str) -> str:
    return Path(name.partition("?")[0].lower().removesuffix(".gz")).suffix


def _numbered(names: list[str]) -> list[str]:
    """Expand numbered files such as `{0000..0042}.tar`."""
    files: list[str] = []
    for name in names:
        if (match := RANGE.search(name)) is None:
            files.append(name)
            continue
        first, last = match.groups()
        for number in range(int(first), int(last) + 1):
            files.append(RANGE.sub(f"{number:0{len(first)}d}", name, count=1))
    return files


@dataclass(frozen=True)
class CellRules:
    """Which images of a source are opened. Others are skipped with a cause.

    Cells come from the data, which others may have written, and a path can read any file. URLs are never fetched.

    Args:
        allow_paths: Whether cells may name files outside `roots`.
        roots: Folders of the source itself. A link in them may lead outside.
    """

    allow_paths: bool = False
    roots: tuple[Path, ...] = ()

    def __call__(self, cell: Any) -> Cell | str | None:
        """Return a cell that may be opened, or the cause why not.

        Args:
            cell: Value of an image column: undecoded, or only the bytes or the path of the file.
        """
        if isinstance(cell, bytes):
            return {"bytes": cell, "path": None}
        if isinstance(cell, str):
            cell = {"bytes": None, "path": cell}
        if not isinstance(cell, dict):
            return None
        if cell.get("bytes") is not None or not (path := cell.get("path")):
            return cell
        if "://" in path:
            return URL_REFUSED
        path = os.path.abspath(path)
        if self.allow_paths or any(Path(path).is_relative_to(root) for root in self.roots):
            return cell
        return PATH_REFUSED if os.path.exists(path) else FILE_MISSING


def rules_for(source: str | list[str], allow_paths: bool = False) -> CellRules:
    """Return which images of a source may be opened that it names by path.

    They are in the folder itself, in the folder of a table, or in the caches of a Hub id. Parquet files and tar shards
    hold their images. A function is the user's own code, and may name any file.
    """
    names = _names(source)
    if any(_suffix(name) in BUILDERS for name in names):
        return CellRules(allow_paths)
    path = expanded(names[0])
    if path.exists():
        root = path if path.is_dir() else path.parent
        return CellRules(allow_paths, (root.absolute(), root.resolve()))
    caches = (
        datasets.config.HF_DATASETS_CACHE,
        datasets.config.DOWNLOADED_DATASETS_PATH,
        HF_HUB_CACHE,
    )
    return CellRules(allow_paths or ":" in names[0], tuple(Path(each).resolve() for each in caches))


def require_allowed(
    rows: Dataset,
    source: str,
    image_column: str,
    texts: Iterable[str] = (),
    allow_paths: bool = False,
    field: str = "data",
) -> Dataset:
    """Check the columns of a source, and that each image may be opened, and return rows with undecoded images.

    Args:
        rows: Rows of the source.
        source: Name of the source.
        image_column: Column of the images.
        texts: Columns of texts.
        allow_paths: Whether rows may name images outside the source.
        field: Field of the recipe or the options; error messages start with it.

    Raises:
        ValueError: A column is missing or of a wrong type, or a row names an image that may not be opened.
    """
    rows = require_columns(rows, [image_column], texts, source, field)
    rows = rows.cast_column(image_column, Image(decode=False))
    rules = rules_for(source, allow_paths)
    first = 0
    # the content of images that are not named is not read
    for table in rows.select_columns([image_column]).with_format("arrow").iter(ROWS_AT_ONCE):
        cells = table.column(0).combine_chunks()
        paths = cells.field("path")
        is_named = pc.and_(pc.is_null(cells.field("bytes")), pc.is_valid(paths))
        for index in pc.indices_nonzero(is_named).to_pylist():
            cause = rules(paths[index].as_py())
            if isinstance(cause, str):
                raise ValueError(
                    f"{field}: row {first + index} of {source!r}: {cause}. Turn on allow_paths if you trust the data, "
                    "or remove the row."
                )
        first += len(cells)
    return rows


def require_columns(
    rows: Dataset,
    images: Iterable[str],
    texts: Iterable[str],
    source: str,
    field: str = "data",
) -> Dataset:
    """Check that rows have columns of images and of texts, and flatten nested columns if one is given.

    Args:
        rows: Rows of a source.
        images: Columns of images.
        texts: Columns of texts, or fields of nested columns such as `translation.en`.
        source: Name of the source, for error messages.
        field: Field of the recipe or the options; error messages start with it.

    Returns:
        The rows; every field of a nested column is a column of its own if `texts` names one.

    Raises:
        ValueError: A column is missing or of a wrong type.
    """
    images = list(images)
    texts = list(texts)
    if any("." in name and name not in rows.column_names for name in texts):
        for name in images:  # which stay whole
            if isinstance(kind := rows.features.get(name), dict) and "bytes" in kind:
                rows = rows.cast_column(name, Image())
        rows = rows.flatten()
    for name in (*images, *texts):
        if name not in rows.column_names:
            raise ValueError(
                f"{field}: {source!r} has no column {name!r}, only {rows.column_names}. Name the right one."
            )
    check_types(rows.features, images, texts, source, field)
    return rows


def check_types(
    features: Features | None,
    images: Iterable[str],
    texts: Iterable[str],
    source: str,
    field: str = "data",
):
    """Check the types of columns, with the arguments of `require_columns`; without features, nothing is checked.

    Raises:
        ValueError: A column of images does not hold encoded images or their paths, which `datasets` would turn into
            black images; or a column of texts does not hold strings or lists of strings.
    """
    kinds = features or {}
    needs: dict[str, str] = {}
    for name in images:
        kind = kinds.get(name)
        is_image = isinstance(kind, Image) or (isinstance(kind, dict) and "bytes" in kind)
        if kind is not None and not is_image and _dtype(kind) not in ENCODED:
            needs[name] = "encoded images. Store files (PNG, JPEG, WebP), as datasets.Image does"
    for name in texts:
        kind = kinds.get(name)
        if kind is not None and _dtype(getattr(kind, "feature", kind)) not in TEXTS:
            needs[name] = "text. Name a column of strings, or of lists of strings"
    for name, needed in needs.items():
        raise ValueError(
            f"{field}: column {name!r} of {source!r} holds {_dtype(kinds[name])}, not {needed}."
        )


def _dtype(kind: Any) -> str:
    return str(getattr(kind, "dtype", None) or type(kind).__name__)


def evenly_spaced_rows(num_rows: int, max_rows: int) -> list[int]:
    """Return at most `max_rows` evenly spaced row numbers, including the first and the last one."""
    return np.unique(np.linspace(0, num_rows - 1, max_rows).astype(int)).tolist()
