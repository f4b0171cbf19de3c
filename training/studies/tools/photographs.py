"""The image files and the queries of the study of tools."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Image as ImageFeature
from PIL import Image

from training.data import evenly_spaced_rows, load_source
from training.studies.search.photographs import read_captions
from training.text.writing_systems import LANGUAGES

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


def write_photographs(source: str, num_queries: int, width: int, folder: Path) -> Photographs:
    """Write the images of a source as files, and choose the queries.

    Args:
        source: Images with captions in both languages, as `data.train` in a recipe.
        num_queries: Number of captions in each language.
        width: Width of the files in pixels; their height is three quarters of it. 0 keeps the images as stored.
        folder: Folder to write to.

    Raises:
        ValueError: The source has fewer captions, no column of images or captions, or an image that cannot be read.
    """
    rows = load_source(source)
    if "image" not in rows.column_names:
        raise ValueError(f"data: {source!r} has no column 'image', only {', '.join(rows.column_names)}.")
    captions = read_captions(rows)
    if num_queries > len(rows):
        raise ValueError(
            f"num_queries: must be at most {len(rows)}, the number of images of {source!r}; got {num_queries}."
        )
    texts, targets = {}, {}
    for language in LANGUAGES:
        all_texts, owners = captions[language]
        first = np.flatnonzero(np.diff(owners, prepend=-1))  # the first caption of each image that has one
        chosen = first[evenly_spaced_rows(len(first), num_queries)]
        texts[language], targets[language] = [all_texts[number] for number in chosen], owners[chosen]
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
