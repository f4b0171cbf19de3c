"""The image files and the queries of the study of tools."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Image as ImageFeature
from PIL import Image

from training.data import evenly_spaced_rows, load_source
from training.studies.search.photographs import read_captions
from training.studies.tools.options import ToolsOptions

JPEG_QUALITY = 90


@dataclass(frozen=True)
class Photographs:
    """Image files, and captions.

    Args:
        files: Paths of the image files.
        texts: Queries by language.
        targets: Number of the photograph of each query, by language, (Q,) int64.
    """

    files: list[str]
    texts: dict[str, list[str]]
    targets: dict[str, np.ndarray]


def write_photographs(options: ToolsOptions, folder: Path) -> Photographs:
    """Write the images of a source as files, and choose the queries.

    Args:
        options: Source, numbers of images and queries, and width of the files.
        folder: Folder to write to.

    Raises:
        ValueError: The source has fewer captions, no column of images or captions, or an image that cannot be read.
    """
    source, width = options.data, options.width
    rows = load_source(source)
    if "image" not in rows.column_names:
        raise ValueError(f"data: {source!r} has no column 'image', only {', '.join(rows.column_names)}.")
    rows = rows.select(evenly_spaced_rows(len(rows), _checked("num_images", options.num_images, len(rows))))
    texts, targets = {}, {}
    for language, (captions, owners) in read_captions(rows).items():
        chosen = evenly_spaced_rows(len(captions), _checked("num_queries", options.num_queries, len(captions)))
        texts[language], targets[language] = [captions[number] for number in chosen], owners[chosen]
    files = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows.select_columns(["image"]).cast_column("image", ImageFeature(decode=False))):
        cell = row["image"]
        content = cell["bytes"] or Path(cell["path"]).read_bytes()
        try:
            with Image.open(io.BytesIO(content)) as image:
                suffix, pixels = (image.format or "jpeg").lower(), image.convert("RGB")
        except OSError as error:
            raise ValueError(f"data: image {number} of {source!r} cannot be read ({error}). Remove it.") from error
        path = folder / f"{number:05}.{'jpeg' if width else suffix}"
        if width:
            pixels.resize((width, width * 3 // 4), Image.Resampling.BICUBIC).save(path, quality=JPEG_QUALITY)
        else:
            path.write_bytes(content)
        files.append(str(path))
    return Photographs(files, texts, targets)


def _checked(field: str, value: int | None, available: int) -> int:
    if value is None:
        return available
    if not 1 <= value <= available:
        raise ValueError(f"{field}: must be in 1..{available}, the number in the data; got {value}.")
    return value
