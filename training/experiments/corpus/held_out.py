"""Held-out test sets of the embedded corpus, which the demo and the accuracy gate measure on."""

from dataclasses import dataclass
from pathlib import Path

from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labeled_sets import LabeledSet, Source, open_set
from training.experiments.corpus.emoji import DEFAULT_CACHE, build_corpus

TEST_SETS = ("unseen_combination", "unseen_style")


@dataclass(frozen=True)
class HeldOut:
    """Test sets of the embedded corpus: images that no training uses, with the names of all concepts.

    Args:
        corpus: Folder of the rendered corpus.
        class_names: Candidate classes: the names of all concepts of the corpus.
        sets: Test sets by name.
    """

    corpus: Path
    class_names: ClassNames
    sets: dict[str, LabeledSet]

    @classmethod
    def open(cls, every: int = 1) -> "HeldOut":
        """Open the test sets, after rendering the corpus if it does not exist.

        Args:
            every: Step of the selection of concepts; 1 selects all.
        """
        corpus = build_corpus(DEFAULT_CACHE, every=every)
        names = ClassNames.read(corpus / "class_names.json")
        sets = {}
        for name in TEST_SETS:
            source = Source(str(corpus / f"{name}.parquet"))
            sets[name] = open_set(name, source, names)
        return cls(corpus, names, sets)
