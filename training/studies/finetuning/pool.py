"""Images with captions in two languages: one test split for all runs, and training pairs of any number."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, List, Value, concatenate_datasets

from training.data import load_source, require_columns, usable_captions
from training.finetuning.prepare import NO_FILTERS
from training.finetuning.split import DEFAULT_SHARE, split_images
from training.prepare.curate.images import examine_image
from training.text.writing_systems import LANGUAGES
from training.utils.rng import keyed_uniform

TEST_SEED = 0  # of the split; no run trains with it


@dataclass(frozen=True)
class Pool:
    """Images with captions. No image of one split is a near-duplicate of one of the other split.

    Args:
        test: Rows of the test split, with the columns `image`, `en` and `zh`.
        training: All other rows.
    """

    test: Dataset
    training: Dataset

    @classmethod
    def open(cls, sources: list[str]) -> "Pool":
        """Join the sources, leave out rows without a usable image or caption, and split the rest.

        Args:
            sources: Data with the columns `image`, `en` and `zh`.

        Raises:
            ValueError: A column is missing, or there are too few images.
        """
        rows = concatenate_datasets([_columns_of(source) for source in sources])
        examined = [examine_image(cell, NO_FILTERS) for cell in rows["image"]]
        usable = [
            number
            for number, image in enumerate(examined)
            if image.cause is None and all(rows[language][number] for language in LANGUAGES)
        ]
        hashes = np.array([examined[number].hash for number in usable], np.uint64)
        colours = np.stack([examined[number].colours for number in usable])
        training, test = split_images(hashes, colours, DEFAULT_SHARE, TEST_SEED)
        rows = rows.select(usable)
        return cls(rows.select(test), rows.select(training))

    def write(self, path: Path, size: int, seed: int) -> Path:
        """Write training pairs that are drawn at random.

        Args:
            path: Parquet file to write.
            size: Number of pairs.
            seed: Seed of the draw.

        Raises:
            ValueError: There are fewer pairs.
        """
        if size > len(self.training):
            raise ValueError(
                f"sizes: {size} pairs were asked for, but beside the test split there are {len(self.training)}. Name "
                "a smaller number, or more data."
            )
        order = keyed_uniform(seed, np.arange(len(self.training)), num=1)[:, 0].argsort()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.training.select(sorted(order[:size].tolist())).to_parquet(path)
        return path


def _columns_of(source: str) -> Dataset:
    rows = require_columns(load_source(source), ["image", *LANGUAGES], source, "Name other data.", field="data")
    rows = rows.select_columns(["image", *LANGUAGES]).cast_column("image", Image(decode=False))
    features = Features({"image": Image(decode=False)} | {name: List(Value("string")) for name in LANGUAGES})
    captions = {name: [usable_captions(cell)[0] for cell in rows[name]] for name in LANGUAGES}
    return Dataset.from_dict({"image": rows["image"][:]} | captions, features=features)
