"""Data as a new user has them: a folder of images, and a CSV file of Chinese titles."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from datasets import Dataset

Row = tuple[str, str]  # path as it is written to the CSV file, and title


def distinct_rows(rows: Dataset, number: int) -> Dataset:
    """Rows of one artwork style with different Chinese names, evenly spaced."""
    first: dict[str, int] = {}
    for row, (style, name) in enumerate(zip(rows["style"], rows["zh"], strict=True)):
        if style == "twemoji":
            first.setdefault(name, row)
    chosen = sorted(first.values())
    return rows.select(chosen[:: len(chosen) // number][:number])


def write_images(
    folder: Path, rows: Dataset, name: Callable[[int], str] = "{}.png".format
) -> list[Row]:
    """Write the images of all rows, and return their names relative to the folder with their Chinese titles."""
    written = []
    for number, row in enumerate(rows):
        path = folder / name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        row["image"].save(path)
        written.append((name(number), row["zh"]))
    return written


def write_csv(
    path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = ("image", "zh"), **options
) -> Path:
    """Write a CSV file; `options` are those of `open`."""
    with path.open("w", newline="", **({"encoding": "utf-8"} | options)) as file:
        csv.writer(file).writerows([header, *rows])
    return path
