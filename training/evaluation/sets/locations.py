"""Rows of a test set from wherever they lie: image folders, parquet, the Hub."""

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from datasets import Dataset, Features, Image, Value, load_dataset
from huggingface_hub import constants, get_session, hf_hub_download, snapshot_download

from training.data import load_source
from training.evaluation.sets.protocols import EvalSet

HUB = "hub"
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
SHARDS = "/wds_"  # how clip-benchmark calls its data sets of shards
NAMES_FILE = "classnames.txt"  # where data sets of clip-benchmark list what their numbers mean


class MissingDataError(Exception):
    """A set that nobody gave and the Hub does not give either."""


@dataclass(frozen=True)
class Source:
    """Where a set lies.

    Args:
        place: a parquet file, tar shards, a glob of either, a folder with a folder a class, a Hub id with or without
            `@revision`, `module:function`, or `hub` for the set's own place there.
        split: where there are several; default: of the set's own place on the Hub the one that it says, else test.
        image_column, label_column: default: the first of the usual ones that is there.
        label_names: file with the names of numbered labels, one a line.
    """

    place: str
    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    label_names: str | None = None


@dataclass(frozen=True)
class Found:
    """What lay there.

    Args:
        rows: with all columns.
        place: where it was.
        split: that was taken; None where there are none.
        revision: commit of a data set on the Hub.
        listed: the names of numbered labels, where a file lists them.
    """

    rows: Dataset
    place: str
    split: str | None = None
    revision: str | None = None
    listed: list[str] | None = None


def read_source(name: str, source: Source, eval_set: EvalSet | None) -> Found:
    """Load rows.

    Args:
        name: id of the set, for messages.
        source: where they lie.
        eval_set: says where the set lies on the Hub.

    Raises:
        ValueError: there is nothing there.
        MissingDataError: the set's own place on the Hub does not give it.
    """
    listed = read_names(name, Path(source.label_names)) if source.label_names else None
    if source.place == HUB and eval_set is not None:
        try:
            return read_hub(eval_set.hub, eval_set.split, listed)
        except ValueError as error:
            reason = " ".join(str(error.__cause__ or error).split()).replace(eval_set.hub, "its place")
            raise MissingDataError(reason[:200]) from error
    path = Path(source.place).expanduser()
    own_place = eval_set is not None and source.place.partition("@")[0] == eval_set.hub
    split = source.split or (eval_set.split if eval_set and own_place else "test")
    if path.is_dir():
        return _read_folder(name, path, split, listed)
    if path.exists() or source.place.endswith((".parquet", ".tar")) or ":" in source.place:
        return Found(load_source(source.place, split), source.place, listed=listed)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@\S+)?", source.place):
        raise ValueError(f"data: {name}: there is no {source.place!r}. Give a folder, a parquet file or a Hub id.")
    return read_hub(source.place, split, listed)


def _read_folder(name: str, path: Path, split: str, listed: list[str] | None) -> Found:
    """A folder with a folder a class, or a copy of a data set from the Hub."""
    names = path / NAMES_FILE
    if listed is None and names.exists():
        listed = read_names(name, names)
    within = path / split if (path / split).is_dir() else path
    if shards := sorted(map(str, within.glob("*.tar"))):
        # said, as `datasets` would take a data set of one shard for text: a file that counts the shards lies beside it
        rows = load_dataset("webdataset", data_files=shards, split="train")
        return Found(rows, str(path), split, listed=listed)
    if any(path.rglob("*.parquet")):
        return Found(load_source(str(path), split), str(path), split, listed=listed)
    return Found(read_class_folders(name, within), str(path))


def read_names(name: str, path: Path) -> list[str]:
    """Names of classes, one a line.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise ValueError(f"label_names: {name}: cannot read {str(path)!r} ({error}). Give a name a line.") from error


def read_class_folders(name: str, folder: Path) -> Dataset:
    """Rows of an image folder: one folder a class, named after it.

    Raises:
        ValueError: there are no folders in it, or one of them has no images.
    """
    paths: list[str] = []
    labels: list[str] = []
    for class_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
        found = sorted(str(path) for path in class_folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)
        if not found:
            raise ValueError(f"data: {name}: folder {str(class_folder)!r} has no images. Fill or remove it.")
        paths += found
        labels += [class_folder.name] * len(found)
    if not paths:
        raise ValueError(f"data: {name}: folder {str(folder)!r} is empty. Put a folder a class into it.")
    features = Features({"image": Image(decode=False), "label": Value("string")})
    return Dataset.from_dict({"image": [{"path": path, "bytes": None} for path in paths], "label": labels}, features)


def read_hub(place: str, split: str, listed: list[str] | None = None) -> Found:
    """A data set on the Hub, or in its cache where HF_HUB_OFFLINE is set.

    Args:
        place: owner/name, with or without `@revision`.
        split: of it.
        listed: names of numbered labels; default: the repository's own file of them, if it has one.

    Raises:
        ValueError: it cannot be had.
    """
    repository, _, revision = place.partition("@")
    try:
        if not constants.HF_HUB_OFFLINE and (error := _unreachable(constants.ENDPOINT)):
            raise error
        if SHARDS in repository:
            return _read_shards(repository, split, revision or None, listed)
        rows = load_dataset(repository, split=split, revision=revision or None)
    except Exception as error:  # `datasets` raises many kinds; to a user they all mean that it cannot be had
        raise ValueError(
            f"data: cannot load {place!r}, split {split!r}, from the Hub ({type(error).__name__}: {error}). Give a "
            "folder, a parquet file, or owner/name of a data set that has this split."
        ) from error
    if listed is None:
        try:
            names = hf_hub_download(repository, NAMES_FILE, repo_type="dataset", revision=revision or None)
            listed = read_names(repository, Path(names))
        except OSError:  # most have none, as their features hold the names
            listed = None
    return Found(rows, place, split, _commit(rows), listed)


def _read_shards(repository: str, split: str, revision: str | None, listed: list[str] | None) -> Found:
    """A split of a data set of shards, downloaded as it is."""
    patterns = [f"{split}/*.tar", NAMES_FILE]
    folder = Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=patterns))
    found = _read_folder(repository, folder, split, listed)
    return replace(found, place=repository, revision=folder.name)  # snapshots/COMMIT


@cache
def _unreachable(endpoint: str) -> Exception | None:
    """Why there is no way to the Hub, found out once: `datasets` would try for half a minute, for each set."""
    try:
        get_session().head(endpoint, timeout=10)
    except Exception as error:  # of whatever client `huggingface_hub` uses
        return error
    return None


def _commit(rows: Dataset) -> str | None:
    """The commit of the repository that the files of these rows are from, hf://datasets/OWNER/NAME@COMMIT/..."""
    for file in rows.info.download_checksums or {}:
        if file.startswith("hf://") and "@" in file:
            return file.partition("@")[2].partition("/")[0]
    return None
