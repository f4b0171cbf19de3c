"""Images with captions in two languages: one test split for all runs, and training pairs of any number."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, List, Value, concatenate_datasets

from training.data import usable_captions
from training.finetuning.prepare import NO_FILTERS
from training.finetuning.split import DEFAULT_SHARE, LIMITS, split_images
from training.prepare.curate.images import examine_image
from training.prepare.curate.near_duplicates import match_images
from training.studies.rows import CAPTIONED, open_rows
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
    def open(cls, sources: list[str], test: str | None = None) -> "Pool":
        """Join the sources, leave out rows without a usable image or caption, and make a test split.

        Args:
            sources: Data with the columns `image`, `en` and `zh`.
            test: The same for the test split; images that resemble one of it are left out of the rest. None takes a
                share of the sources.

        Raises:
            ValueError: A column is missing, or there are too few images.
        """
        joined = concatenate_datasets([_columns_of(source, "data") for source in sources])
        rows, hashes, colours = _usable(joined)
        if test is None:
            training, chosen = split_images(hashes, colours, DEFAULT_SHARE, TEST_SEED)
            return cls(rows.select(chosen), rows.select(training))
        test_rows, test_hashes, test_colours = _usable(_columns_of(test, "test"))
        both = np.concatenate([test_hashes, hashes]), np.concatenate([test_colours, colours])
        match = match_images(*both, *LIMITS, num_reference=len(test_rows))[len(test_rows) :]
        return cls(test_rows, rows.select(np.flatnonzero(match >= len(test_rows))))

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


def _usable(rows: Dataset) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Rows with a usable image and captions in both languages, and the hashes and colours of their images."""
    examined = [examine_image(cell, NO_FILTERS) for cell in rows["image"]]
    usable = [
        number
        for number, image in enumerate(examined)
        if image.cause is None and all(rows[language][number] for language in LANGUAGES)
    ]
    hashes = np.array([examined[number].hash for number in usable], np.uint64)
    return rows.select(usable), hashes, np.stack([examined[number].colours for number in usable])


def _columns_of(source: str, field: str) -> Dataset:
    rows = open_rows(source, CAPTIONED, field)
    features = Features({"image": Image(decode=False)} | {name: List(Value("string")) for name in LANGUAGES})
    captions = {name: [usable_captions(cell)[0] for cell in rows[name]] for name in LANGUAGES}
    return Dataset.from_dict({"image": rows["image"][:]} | captions, features=features)
