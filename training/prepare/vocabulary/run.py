"""One run of the vocabulary command."""

from itertools import chain
from pathlib import Path

from training.prepare.vocabulary.corpus import Corpus, hold_out, read_corpus, split_name
from training.prepare.vocabulary.coverage import Coverage, coverage
from training.prepare.vocabulary.cut import PieceCounts, count_pieces, cut_vocabulary
from training.prepare.vocabulary.options import PROGRAM, VocabularyOptions
from training.prepare.vocabulary.tables import cut_rows, plot_curve, source_rows, text_table
from training.text.pipeline import read_unigram
from training.text.tokenizers import load_tokenizer
from training.text.vocabulary import FILES, Vocabulary
from training.utils.cli import command_of
from training.utils.results import RESULTS_FILE, Results, make_meta

CURVE_FILE = "curve.png"


def written_names(options: VocabularyOptions) -> list[str]:
    """Names of the files that a run writes to its output folder."""
    return [*(FILES if options.size is not None else ()), *((RESULTS_FILE, CURVE_FILE) if options.curve else ())]


class Run:
    """One run of the command: counts the corpus once, then cuts vocabularies of any size.

    Args:
        options: Options of the command.

    Raises:
        ValueError: If the tokenizer or a file cannot be used.
    """

    def __init__(self, options: VocabularyOptions):
        self.options = options
        self.tokenizer = load_tokenizer(options.tokenizer, "tokenizer")
        read_unigram(self.tokenizer)  # fail before the corpus is read
        corpus = read_corpus(options.corpus)
        if options.held_out:
            self.held_out: Corpus = read_corpus(options.held_out)
        else:
            corpus, self.held_out = hold_out(corpus, options.held_out_share, options.seed)
        self.counts: PieceCounts = count_pieces(self.tokenizer, chain.from_iterable(corpus.values()))

    def cut(self, size: int) -> tuple[Vocabulary, dict[str, Coverage]]:
        """Cut a vocabulary, compare it with its source on the held-out sentences, and print the table.

        Args:
            size: Number of pieces to keep.

        Returns:
            The vocabulary, and its coverage of each language.
        """
        vocabulary = cut_vocabulary(
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
        print(f"\n{text_table(size, len(vocabulary.kept_ids), self.options.width, coverages)}")
        return vocabulary, coverages

    @property
    def corpus_name(self) -> str:
        """Names of the corpus files without their folders."""
        return ", ".join(Path(split_name(name)[0]).name for name in self.options.corpus)

    def measure_curve(self):
        """Measure the sizes of `curve`; write results.json and curve.png."""
        rows, coverages = [], {}
        for size in (sizes := sorted(set(self.options.curve))):
            coverages = self.cut(size)[1]
            rows += cut_rows(size, self.options.width, coverages)
        rows += source_rows(len(self.tokenizer), self.options.width, coverages)
        held_out = (
            self.options.held_out or f"{self.options.held_out_share:.0%} of the corpus, selected by a keyed hash"
        )
        meta = make_meta(
            data="; ".join(filter(None, (self.corpus_name, self.options.attribution))),
            seed=self.options.seed,
            command=command_of(PROGRAM, self.options),
            held_out=held_out,
            tokenizer=self.options.tokenizer,
            sentences=self.counts.sentences,
        )
        results = Results(meta, rows)
        folder = results.write(self.options.output_dir).parent
        plot_curve(results, sizes, list(coverages), folder / CURVE_FILE)
        print(f"\n{folder / RESULTS_FILE}\n{folder / CURVE_FILE}")
