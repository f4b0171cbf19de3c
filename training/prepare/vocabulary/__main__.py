"""Cut a tokenizer to English and Chinese, and say what that costs on held-out sentences.

python -m training.prepare.vocabulary --tokenizer BAAI/AltCLIP --corpus captions.parquet --size 32000
--output_dir runs/cut
python -m training.prepare.vocabulary --tokenizer BAAI/AltCLIP --corpus captions.parquet --curve 8000 16000 32000
--output_dir runs/curve
"""

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import datasets
from jsonargparse import ArgumentError, ArgumentParser

from training.prepare.vocabulary.corpus import Corpus, hold_out, read_corpus, split_name
from training.prepare.vocabulary.coverage import Coverage, coverage
from training.prepare.vocabulary.cut import PieceCounts, count_pieces, cut_counted
from training.prepare.vocabulary.report import plot_curve, rows_of, source_rows, table
from training.text.pipeline import read_unigram
from training.text.tokenizers import load_tokenizer
from training.text.vocabulary import Vocabulary
from training.utils.cli import command_of
from training.utils.results import RESULTS_FILE, Results, make_meta

CURVE_FILE = "curve.png"
LISTS = ("corpus", "held_out", "curve")


@dataclass(frozen=True, kw_only=True)
class VocabularyOptions:
    """What to cut, and by which text.

    Args:
        tokenizer: Hub id or folder of the source.
        corpus: `FILE.parquet[:COLUMN]` (default: columns en and zh), `FILE.txt[:LANGUAGE]`, or
            `module:function[:COLUMN]`.
        output_dir: the cut tokenizer with its ids, and the curve.
        size: pieces to keep, for a tokenizer; None writes none.
        curve: sizes to measure, for results.json and curve.png; none writes neither.
        held_out: sentences to measure on, likewise; default: a part of the corpus.
        held_out_share: that part, 0..1.
        width: numbers a piece in the embedding table.
        ideograph_share: largest share (0..1) of the pieces for Chinese characters that the corpus does not have.
        max_other_script: largest share (0..1) of the letters that may be neither Latin nor Chinese.
        attribution: whose text it is, and under which licence, for the results.
        seed: key of the hash that holds sentences out.
    """

    tokenizer: str
    corpus: list[str]
    output_dir: str
    size: int | None = None
    curve: list[int] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    held_out_share: float = 0.05
    width: int = 384
    ideograph_share: float = 0.25
    max_other_script: float = 0.2
    attribution: str = ""
    seed: int = 0


class Run:
    """One run of the command.

    Args:
        options: what to do.

    Raises:
        ValueError: an option makes no sense, or what it names cannot be used.
    """

    def __init__(self, options: VocabularyOptions):
        self.options = options
        if options.size is None and not options.curve:
            raise ValueError("size: neither --size for a tokenizer nor --curve for a curve is given. Give one.")
        if not options.held_out and not 0 < options.held_out_share < 1:
            raise ValueError(f"held_out_share: {options.held_out_share} is not between 0 and 1. Give such as 0.05.")
        self.tokenizer = load_tokenizer(options.tokenizer, "tokenizer")
        read_unigram(self.tokenizer)  # before the corpus is read
        corpus = read_corpus(options.corpus)
        if options.held_out:
            self.held_out: Corpus = read_corpus(options.held_out)
        else:
            corpus, self.held_out = hold_out(corpus, options.held_out_share, options.seed)
        self.counts: PieceCounts = count_pieces(self.tokenizer, chain.from_iterable(corpus.values()))

    def cut(self, size: int) -> tuple[Vocabulary, dict[str, Coverage]]:
        """A vocabulary of this size, and how it reads the held-out sentences of each language."""
        vocabulary = cut_counted(
            self.tokenizer,
            self.counts,
            size,
            ideograph_share=self.options.ideograph_share,
            max_other_script=self.options.max_other_script,
            source=self.options.tokenizer,
            corpus=self.corpus_name,
        )
        held_out = {language: texts for language, texts in self.held_out.items() if texts}
        coverages = {language: coverage(vocabulary, self.tokenizer, texts) for language, texts in held_out.items()}
        print(f"\n{table(size, len(vocabulary.kept_ids), self.options.width, coverages)}")
        return vocabulary, coverages

    @property
    def corpus_name(self) -> str:
        """The files by name, without their folders."""
        return ", ".join(Path(split_name(name)[0]).name for name in self.options.corpus)

    def measure_curve(self):
        """Write results.json and curve.png."""
        rows, coverages = [], {}
        for size in (sizes := sorted(set(self.options.curve))):
            coverages = self.cut(size)[1]
            rows += rows_of(size, self.options.width, coverages)
        rows += source_rows(len(self.tokenizer), self.options.width, coverages)
        held_out = self.options.held_out or f"{self.options.held_out_share:.0%} of the corpus, by a keyed hash"
        meta = make_meta(
            data="; ".join(filter(None, (self.corpus_name, self.options.attribution))),
            seed=self.options.seed,
            command=command_of("python -m training.prepare.vocabulary", self.options),
            held_out=held_out,
            tokenizer=self.options.tokenizer,
            sentences=self.counts.sentences,
        )
        results = Results(meta, rows)
        folder = results.write(self.options.output_dir).parent
        plot_curve(results, sizes, list(coverages), folder / CURVE_FILE)
        print(f"\n{folder / RESULTS_FILE}\n{folder / CURVE_FILE}")


def main(argv: list[str] | None = None):
    """Parse, count, cut, print the table, write."""
    parser = ArgumentParser(
        prog="python -m training.prepare.vocabulary",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        exit_on_error=False,
    )
    for name in LISTS:
        parser.add_argument(f"--{name}", nargs="+", type=int if name == "curve" else str, default=[])
    parser.add_argument("--size", type=int | None, default=None)
    parser.add_class_arguments(VocabularyOptions, skip={*LISTS, "size"})
    datasets.disable_progress_bars()
    try:
        options = VocabularyOptions(**vars(parser.instantiate(parser.parse_args(argv))))
        if not options.corpus:
            raise ValueError("corpus: --corpus is missing. Name at least one file.")
        run = Run(options)
        if options.size is not None:
            vocabulary, _ = run.cut(options.size)
            vocabulary.save(options.output_dir)
            print(f"\n{options.output_dir}: kept {vocabulary.counts}")
        if options.curve:
            run.measure_curve()
    except (ArgumentError, ValueError) as error:
        parser.exit(2, f"vocabulary: {error}\n")


if __name__ == "__main__":
    main()
