"""Held-out test sets of the embedded corpus, which the demo, the ablations and the accuracy gate measure on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.config import DataConfig
from training.corpus.emoji import ATTRIBUTION, DEFAULT_CACHE, build_corpus
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labelled_sets import LabelledSet, Source, open_set

TEST_SETS = ("unseen_combination", "unseen_style")


@dataclass(frozen=True)
class HeldOut:
    """Test sets of the embedded corpus: images that no training uses, with the names of all concepts.

    Args:
        corpus: Folder of the rendered corpus.
        every: Step of the selection of concepts: the corpus contains each `every`-th concept.
        class_names: Candidate classes: the names of all concepts of the corpus.
        sets: Test sets by name.
    """

    corpus: Path
    every: int
    class_names: ClassNames
    sets: dict[str, LabelledSet]

    @classmethod
    def open(cls, every: int = 1) -> "HeldOut":
        """Open the test sets, after rendering the corpus if it does not exist.

        Args:
            every: Step of the selection of concepts; 1 selects all.
        """
        corpus = build_corpus(DEFAULT_CACHE, every=every)
        names = ClassNames.read(corpus / "class_names.json")
        sets = {
            name: open_set(name, Source(str(corpus / f"{name}.parquet")), names)
            for name in TEST_SETS
        }
        return cls(corpus, every, names, sets)

    def training_data(self, data: DataConfig) -> DataConfig:
        """The data of a recipe for the whole corpus, reduced to the same concepts as the test sets."""
        return data if self.every == 1 else replace(data, train=str(self.corpus / "train.parquet"))

    def meta(self) -> dict[str, Any]:
        """Facts about the data for `results.json`."""
        return {
            "data": f"{self.corpus.name}; {ATTRIBUTION}",
            "test_images": {name: len(each.labels) for name, each in self.sets.items()},
        }
