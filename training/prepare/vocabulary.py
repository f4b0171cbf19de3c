r"""Cut a tokenizer to English and Chinese, and measure the loss on held-out sentences.

Example:
  python -m training.prepare.vocabulary --tokenizer BAAI/AltCLIP --corpus captions.parquet --size 32000 \
      --output_dir runs/cut
"""

import hashlib
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from training.utils.cli import command_of, hide_library_bars, parse_options, user_errors

if TYPE_CHECKING:
    from training.prepare.cut import Coverage

PROGRAM = "python -m training.prepare.vocabulary"
PROTOCOL = "compared with the source"
HELD_OUT_SHARE = 0.05  # of the corpus, for the coverage
SHOWN_LOST = 20  # characters

Corpus = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class VocabularyOptions:
    """Options of the vocabulary command.

    Args:
        tokenizer: Hub id or folder of the source tokenizer.
        corpus: Files to count pieces on: `FILE.parquet[:COLUMN]` (default: columns en and zh), `FILE.txt[:LANGUAGE]`,
            or `module:function[:COLUMN]`.
        output_dir: Folder for the cut tokenizer with its ids, and for results.json with the coverage.
        size: Number of pieces to keep, including special tokens.
        overwrite: Replace files in `output_dir` that this command has not written.
    """

    tokenizer: str
    corpus: list[str]
    output_dir: str
    size: int
    overwrite: bool = False


def read_corpus(names: list[str]) -> Corpus:
    """Read sentences.

    Args:
        names: Files to read: `FILE.parquet[:COLUMN]` or another source of `load_source`, by default its columns `en`
            and `zh`; or `FILE.txt[:LANGUAGE]` with one sentence per line. The language of a column is its name.

    Returns:
        Sentences by language, in the order of the files, without empty cells.

    Raises:
        ValueError: If a file is missing, is not UTF-8, or lacks the column.
    """
    corpus: Corpus = {}
    for name in names:
        source, column = _split_name(name)
        if source.endswith(".txt"):
            try:
                lines = Path(source).read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"corpus: cannot read {source!r} ({error}). Name a text file in UTF-8.") from error
            corpus.setdefault(column or "text", []).extend(line.strip() for line in lines if line.strip())
        else:
            _read_rows(source, column, corpus)
    return corpus


def _split_name(name: str) -> tuple[str, str | None]:
    """Split `FILE[:COLUMN]` or `module:function[:COLUMN]` into source and column."""
    source, _, column = name.rpartition(":")
    if source.endswith((".parquet", ".txt")) or ":" in source:
        return source, column
    return name, None


def _read_rows(source: str, column: str | None, corpus: Corpus):
    from training.data import load_source, usable_captions

    rows = load_source(source)
    columns = [column] if column else [name for name in ("en", "zh") if name in rows.column_names]
    if not columns or not set(columns) <= set(rows.column_names):
        raise ValueError(
            f"corpus: {source!r} has no column {column or 'en or zh'}, only {', '.join(rows.column_names)}. Name the "
            f"right one: {source}:COLUMN."
        )
    for name in columns:
        corpus.setdefault(name, []).extend(text for cell in rows[name] for text in usable_captions(cell)[0])


def hold_out(corpus: Corpus, share: float) -> tuple[Corpus, Corpus]:
    """Hold out a share (0..1) of the sentences. A hash of the sentence decides, so equal ones are on the same side.

    Returns:
        The remaining corpus and the held-out sentences, by language.
    """
    kept: Corpus = {language: [] for language in corpus}
    held_out: Corpus = {language: [] for language in corpus}
    for language, texts in corpus.items():
        for text in texts:
            digest = hashlib.blake2b(text.encode(), digest_size=8, key=b"0").digest()
            is_held_out = int.from_bytes(digest, "big") < share * 2**64
            (held_out if is_held_out else kept)[language].append(text)
    return kept, held_out


def coverage_table(coverages: "dict[str, Coverage]") -> str:
    """A text table of the coverage: a line per language, and the most frequent lost characters."""
    lines = [
        f"{'':10}{'sentences':>11}{'characters':>12}{'unknown':>10}{'(source)':>10}{'lost':>10}"
        f"{'pieces per sentence':>26}{'same pieces':>13}"
    ]
    for language, each in coverages.items():
        pieces = f"{each.source_pieces_per_sentence:.2f} -> {each.pieces_per_sentence:.2f}"
        lines.append(
            f"{language:10}{each.sentences:>11,}{each.characters:>12,}{each.unknown_characters:>10.4%}"
            f"{each.source_unknown_characters:>10.4%}{each.lost_characters:>10.4%}{pieces:>26}{each.same_pieces:>13.2%}"
        )
    for language, each in coverages.items():
        if each.lost:
            frequent = " ".join(f"{character} {count}" for character, count in list(each.lost.items())[:SHOWN_LOST])
            lines.append(f"lost, {language}: {len(each.lost)} characters; most frequent: {frequent}")
    return "\n".join(lines)


def run(options: VocabularyOptions):
    """Cut the tokenizer, measure its coverage on held-out sentences, and write both.

    Raises:
        ValueError: If the tokenizer or a file cannot be used, or the size is too small or too large.
    """
    from training.prepare.cut import count_pieces, cut_vocabulary, measure_coverage
    from training.text.pipeline import read_unigram
    from training.text.tokenizers import load_tokenizer
    from training.utils.results import Results, Row, make_meta

    tokenizer = load_tokenizer(options.tokenizer, "tokenizer")
    read_unigram(tokenizer)  # fail before the corpus is read
    corpus, held_out = hold_out(read_corpus(options.corpus), HELD_OUT_SHARE)
    counts = count_pieces(tokenizer, chain.from_iterable(corpus.values()))
    name = ", ".join(Path(_split_name(name)[0]).name for name in options.corpus)
    vocabulary = cut_vocabulary(tokenizer, counts, options.size, source=options.tokenizer, corpus=name)
    coverages = {name: measure_coverage(vocabulary, tokenizer, texts) for name, texts in held_out.items() if texts}
    vocabulary.save(options.output_dir)
    rows = [
        Row(
            model=f"{options.size} pieces",
            set="held_out",
            protocol=PROTOCOL,
            language=language,
            metric=metric,
            value=value,
        )
        for language, each in coverages.items()
        for metric, value in asdict(each).items()
        if metric != "lost"
    ]
    meta = make_meta(name, None, command_of(PROGRAM, options), tokenizer=options.tokenizer, counts=vocabulary.counts)
    Results(meta, rows).write(options.output_dir)
    print(f"\n{coverage_table(coverages)}\n\n{options.output_dir}: {len(tokenizer):,} -> {len(vocabulary):,} pieces")


def main(argv: list[str] | None = None):
    """Parse the options, cut and measure."""
    options = parse_options(VocabularyOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("vocabulary", extra="train"):
        # after parsing, so that --help does not load torch
        from training.text.vocabulary import FILES
        from training.utils.output import claim_folder
        from training.utils.results import RESULTS_FILE

        hide_library_bars()
        names, inputs = [*FILES, RESULTS_FILE], {"tokenizer": options.tokenizer}
        with claim_folder(options.output_dir, names, command="vocabulary", inputs=inputs, overwrite=options.overwrite):
            run(options)


if __name__ == "__main__":
    main()
