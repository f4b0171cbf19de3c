"""Embeddings of photographs and of their captions, for the studies of search."""

import numpy as np
from datasets import Dataset, Image

from training.data import load_source
from training.search.embedder import Embedder
from training.text.writing_systems import LANGUAGES

BATCH_SIZE = 64


def embed_photographs(embedder: Embedder, sources: list[str]) -> np.ndarray:
    """Embed all images of sources in the way of an index.

    Args:
        embedder: Embedder of the model.
        sources: Images, each as `data.train` in a recipe.

    Returns:
        (N, D) float32, L2-normalised.

    Raises:
        ValueError: A source has no column `image`, or an image cannot be read.
    """
    parts = [np.empty((0, embedder.dimension), np.float32)]
    for source in sources:
        rows = load_source(source)
        if "image" not in rows.column_names:
            raise ValueError(f"data: {source!r} has no column 'image', only {', '.join(rows.column_names)}.")
        images = rows.select_columns(["image"]).cast_column("image", Image(decode=False))
        for table in embedder.tables(((None, row["image"]) for row in images), BATCH_SIZE):
            if table["vector"].null_count:
                raise ValueError(f"data: {source!r} has an image that cannot be read. Remove it.")
            parts.append(np.stack(table["vector"].to_numpy()))
    return np.concatenate(parts)


def read_captions(rows: Dataset) -> dict[str, tuple[list[str], np.ndarray]]:
    """Captions of captioned images.

    Args:
        rows: Rows with a caption or a list of captions in each language.

    Returns:
        For each language its captions, and the row of the image of each caption, (Q,) int64.

    Raises:
        ValueError: A language has no column.
    """
    captions = {}
    for language in LANGUAGES:
        if language not in rows.column_names:
            raise ValueError(f"data: there is no column {language!r}, only {', '.join(rows.column_names)}.")
        lists = [[value] if isinstance(value, str) else value for value in rows[language]]
        texts = [text for texts in lists for text in texts]
        captions[language] = texts, np.repeat(np.arange(len(lists)), [len(texts) for texts in lists])
    return captions
