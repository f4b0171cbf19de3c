"""Rows of images and captions, and batches of one source, for tests."""

from typing import Any

import numpy as np
from datasets import Dataset, Features, Image
from PIL import Image as PILImage

from tests.tiny import encoded
from training.data import BatchPlan, KeyedBatchSampler

BROKEN = {"bytes": b"broken", "path": None}


def make_cell(image: PILImage.Image, kind: str = "PNG", **options: Any) -> dict[str, Any]:
    """An undecoded image as `datasets` stores it."""
    return {"bytes": encoded(image, kind, **options), "path": None}


def make_rows(cells: list, **captions: list) -> Dataset:
    """Rows of images or undecoded images, with captions of any type.

    Columns are added one by one, so that pyarrow does not convert them.
    """
    rows = Dataset.from_dict({"image": cells}, features=Features({"image": Image(decode=False)}))
    rows = rows.cast_column("image", Image())
    for language, column in captions.items():
        rows = rows.add_column(language, column)
    return rows


def make_plan(**fields) -> BatchPlan:
    return BatchPlan(**{"batch_size": 8, "seed": 0, "num_views": 0, "start": 0, "stop": 4} | fields)


def sample_batches(rows, **fields) -> list[list[tuple[int, int]]]:
    """Row and view id of every sample in the batches of one source."""
    sampler = KeyedBatchSampler([np.asarray(rows)], [1.0], make_plan(**fields))
    return [[(key.row, key.view_id) for key in batch] for batch in sampler]
