"""What demo and ablation are judged by: images held out of all training, and the names of all concepts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from training.config import DataConfig
from training.corpus.emoji import ATTRIBUTION, DEFAULT_CACHE, build_corpus
from training.data import load_source
from training.evaluation.sets.class_names import ClassNames

TEST_SETS = ("unseen_combination", "unseen_style")
COLOURS = {"en": "#2a78d6", "zh": "#d6452a"}


@dataclass(frozen=True)
class HeldOut:
    """The test sets of the embedded corpus.

    Args:
        corpus: folder of the rendered corpus.
        every: only each `every`-th concept is in it.
        class_names: the candidates, all names of the corpus.
        sets: labelled images by name.
    """

    corpus: Path
    every: int
    class_names: ClassNames
    sets: dict[str, Dataset]

    @classmethod
    def open(cls, every: int = 1) -> "HeldOut":
        """Render the corpus if that was never done, and open its test sets."""
        corpus = build_corpus(DEFAULT_CACHE, every=every)
        sets = {name: load_source(str(corpus / f"{name}.parquet")) for name in TEST_SETS}
        return cls(corpus, every, ClassNames.read(corpus / "class_names.json"), sets)

    def training_data(self, data: DataConfig) -> DataConfig:
        """The data of a recipe that names the whole corpus, thinned as the test sets are."""
        return data if self.every == 1 else replace(data, train=str(self.corpus / "train.parquet"))

    def meta(self) -> dict[str, Any]:
        """What results say of the data."""
        return {
            "data": f"{self.corpus.name}; {ATTRIBUTION}",
            "test_images": {name: len(rows) for name, rows in self.sets.items()},
        }
