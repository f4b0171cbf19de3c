"""Loads the rows of a test set: image folders, parquet files, tar shards, data sets on the Hub."""

import re
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path

from datasets import Dataset, Features, Image, Value, load_dataset
from huggingface_hub import constants, get_session, snapshot_download

from modeling_dcclip.search.files import EXTENSIONS, is_hidden
from training.data import load_source
from training.data.sources import SPLIT_FOLDERS, check_split, require_unicode
from training.evaluation.sets.class_names import read_lines
from training.evaluation.sets.protocols import EvalSet
from training.utils.files import expanded, is_claimed

HUB = "hub"
IMAGE_SUFFIXES = EXTENSIONS | {".ppm"}
SHARDED_PREFIX = "/wds_"  # names of the sharded data sets of clip-benchmark
NAMES_FILE = "classnames.txt"  # names of numbered labels in the data sets of clip-benchmark
PROBE_TIMEOUT_S = 5
BLOCKED_STATUS = {403, 407, 502, 503, 504}  # sent by a proxy or a firewall instead of the Hub


class MissingDataError(Exception):
    """No source was given for a set, and its data set on the Hub cannot be loaded."""


@dataclass(frozen=True)
class Source:
    """Location and format of a set.

    Args:
        location: Parquet file, tar shards, a glob of either, folder with one folder per class, Hub id with or without
            `@revision`, `module:function`, or `hub` for the set's own data set on the Hub.
        split: Split, where there are several. Default: test, or for the set's own data set, its test split there.
        image_column: Name of the column of images. Default: the first usual name that exists.
        label_column: Name of the column of labels. Default: the first usual name whose labels are class names.
        allow_paths: Whether rows may name image files outside the source.
    """

    location: str
    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    allow_paths: bool = False


@dataclass(frozen=True)
class LoadedRows:
    """Rows of a source.

    Args:
        rows: Rows with all columns.
        location: Location that they were loaded from.
        split: Split that was loaded; None if the source has no splits.
        revision: Commit of a data set on the Hub.
        listed: Names of numbered labels, if the data set has the file `classnames.txt`.
        is_listing: Whether the images were listed from folders, so that the data name none.
    """

    rows: Dataset
    location: str
    split: str | None = None
    revision: str | None = None
    listed: list[str] | None = None
    is_listing: bool = False


def read_source(name: str, source: Source, eval_set: EvalSet | None) -> LoadedRows:
    """Load the rows of a set. `eval_set` is its entry in the protocol, or None for the user's own set.

    Raises:
        ValueError: There is nothing at this location.
        MissingDataError: The set's own data set on the Hub cannot be loaded.
    """
    if source.location == HUB and eval_set is not None:
        try:
            return read_hub(eval_set.hub, eval_set.split)
        except ValueError as error:
            reason = " ".join(str(error.__cause__ or error).split()).replace(
                eval_set.hub, "the data set"
            )
            raise MissingDataError(reason[:200]) from error
    path = expanded(source.location)
    is_own = eval_set is not None and source.location.partition("@")[0] == eval_set.hub
    split = source.split or (eval_set.split if eval_set and is_own else "test")
    if path.is_dir():
        return _read_folder(name, path, split, is_named=source.split is not None)
    if path.exists() or source.location.endswith((".parquet", ".tar")) or ":" in source.location:
        check_split(source.location, source.split or "train", "split")
        return LoadedRows(load_source(source.location, split), source.location)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@\S+)?", source.location):
        raise ValueError(
            f"data: {name}: there is no {source.location!r}. Give a folder, a parquet file or a Hub id."
        )
    return read_hub(source.location, split)


def _read_folder(name: str, path: Path, split: str, is_named: bool = False) -> LoadedRows:
    """Load a folder with one folder per class, or a downloaded data set."""
    names = path / NAMES_FILE
    listed = read_lines(names, name) if names.exists() else None
    within = path / split if (path / split).is_dir() else path
    if shards := sorted(map(str, within.glob("*.tar"))):
        return LoadedRows(
            load_source(shards, field=f"data: {name}"), str(path), split, listed=listed
        )
    if any(path.rglob("*.parquet")):
        return LoadedRows(load_source(str(path), split), str(path), split, listed=listed)
    if within != path:
        return LoadedRows(read_class_folders(name, within), str(path), split, is_listing=True)
    folders = [folder.name for folder in list_folders(path)]
    if folders and (is_named or {folder.lower() for folder in folders} <= {*chain(*SPLIT_FOLDERS)}):
        raise ValueError(
            f"split: {name}: {str(path)!r} has no folder {split!r}, only {', '.join(folders[:5])}. Name one of these "
            "with --split; if they are classes, leave --split out."
        )
    return LoadedRows(read_class_folders(name, path), str(path), is_listing=True)


def is_image(path: Path) -> bool:
    """Whether a file name is an image's. Hidden files, such as `._1.jpg` of macOS, are not images."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder and of all folders below it, sorted by path.

    Hidden and system folders, such as `.ipynb_checkpoints` and `@eaDir`, hold copies and are left out.
    """
    found = (path for path in folder.rglob("*") if is_image(path) and path.is_file())
    return sorted(
        path for path in found if not any(map(is_hidden, path.relative_to(folder).parts[:-1]))
    )


def list_folders(folder: Path) -> list[Path]:
    """Folders in a folder, sorted, without hidden folders and outputs of this project's commands."""
    found = (path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    return sorted(path for path in found if not is_claimed(path))


def read_class_folders(name: str, folder: Path) -> Dataset:
    """Rows of an image folder with one folder per class, named after the class.

    Raises:
        ValueError: The folder has no class folders, one of them has no images, or images are beside them.
    """
    paths: list[str] = []
    labels: list[str] = []
    for class_folder in list_folders(folder):
        found = sorted(map(str, list_images(class_folder)))
        if not found:
            raise ValueError(
                f"data: {name}: folder {str(class_folder)!r} has no images. Fill or remove it."
            )
        paths += found
        labels += [class_folder.name] * len(found)
    require_unicode(map(Path, paths), f"data: {name}")
    if paths and (beside := [path.name for path in folder.iterdir() if is_image(path)]):
        raise ValueError(
            f"data: {name}: {beside[0]!r} is in no class folder of {str(folder)!r}. Move or remove it."
        )
    if not paths:
        raise ValueError(
            f"data: {name}: folder {str(folder)!r} is empty. Add one folder per class."
        )
    features = Features({"image": Image(decode=False), "label": Value("string")})
    return Dataset.from_dict(
        {"image": [{"path": path, "bytes": None} for path in paths], "label": labels}, features
    )


def read_hub(location: str, split: str) -> LoadedRows:
    """Load a data set from the Hub, or with HF_HUB_OFFLINE=1 from its local cache.

    Args:
        location: Hub id, owner/name, with or without `@revision`.
        split: Split to load.

    Raises:
        ValueError: The data set cannot be loaded.
    """
    repository, _, named = location.partition("@")
    revision = named or None
    try:
        if not constants.HF_HUB_OFFLINE and (error := _connection_error(constants.ENDPOINT)):
            raise error
        if SHARDED_PREFIX in repository:
            patterns = [f"{split}/*.tar", NAMES_FILE]
            snapshot = snapshot_download(
                repository, repo_type="dataset", revision=revision, allow_patterns=patterns
            )
            folder = Path(snapshot)  # snapshots/COMMIT
            return replace(
                _read_folder(repository, folder, split), location=repository, revision=folder.name
            )
        rows = load_dataset(repository, split=split, revision=revision)
    except (
        Exception
    ) as error:  # `datasets` raises many types, and all of them mean that it cannot be loaded
        raise ValueError(
            f"data: cannot load {location!r}, split {split!r}, from the Hub ({type(error).__name__}: {error}). Give a "
            "folder, a parquet file, or owner/name of a data set that has this split."
        ) from error
    return LoadedRows(rows, location, split, _commit(rows))


@cache
def _connection_error(endpoint: str) -> Exception | None:
    """Why the Hub cannot be reached; None if it can. Asked once per run.

    Without this probe, `huggingface_hub` and `datasets` retry with growing pauses, up to half a minute for each set.
    """
    try:
        response = get_session().head(endpoint, timeout=PROBE_TIMEOUT_S)
    except Exception as error:  # depends on the HTTP client of `huggingface_hub`
        return error
    if response.status_code in BLOCKED_STATUS:
        return ConnectionError(f"{endpoint} returned status {response.status_code}")
    return None


def _commit(rows: Dataset) -> str | None:
    """Commit of the repository, from the URLs of its files: hf://datasets/OWNER/NAME@COMMIT/..."""
    for file in rows.info.download_checksums or {}:
        if file.startswith("hf://") and "@" in file:
            return file.partition("@")[2].partition("/")[0]
    return None
