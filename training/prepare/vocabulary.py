r"""Cut a tokenizer to English and Chinese, and measure the loss on held-out sentences.

Examples:
  python -m training.prepare.vocabulary --tokenizer BAAI/AltCLIP --corpus captions.parquet --size 32000 \
      --output_dir runs/cut
  python -m training.prepare.vocabulary --tokenizer BAAI/AltCLIP --corpus captions.parquet \
      --curve 8000 16000 32000 --output_dir runs/curve
"""

import hashlib
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from training.utils.cli import command_of, hide_library_bars, parse_options, user_errors

if TYPE_CHECKING:
    from training.prepare.cut import Coverage
    from training.utils.results import Row

PROGRAM = "python -m training.prepare.vocabulary"
SHARES = ("same_pieces", "lost_characters", "unknown_characters", "unknown_pieces")
COUNTS = ("pieces_per_sentence", "sentences", "characters")
SOURCE_METRICS = ("unknown_characters", "unknown_pieces", "pieces_per_sentence")
PROTOCOL = "compared with the source"
SHOWN_LOST = 20  # characters

Corpus = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class VocabularyOptions:
    """Options of the vocabulary command.

    Args:
        tokenizer: Hub id or folder of the source tokenizer.
        corpus: Files to count pieces on: `FILE.parquet[:COLUMN]` (default: columns en and zh), `FILE.txt[:LANGUAGE]`,
            or `module:function[:COLUMN]`.
        output_dir: Folder for the cut tokenizer with its ids, and for results.json.
        size: Number of pieces to keep; null writes no tokenizer.
        curve: Sizes to measure for results.json; without any, this file is not written.
        held_out: Files with sentences to measure on, in the forms of `corpus`; default: a part of the corpus.
        held_out_share: Share (0..1) of the corpus that is held out if `held_out` names no file.
        width: Width of the embedding table, for its size in MiB.
        ideograph_share: Largest share (0..1) of the kept pieces for Chinese characters that do not occur in the
            corpus.
        max_other_script: Largest share (0..1) of the letters of the corpus that may be neither Latin nor Chinese.
        seed: Key of the hash that selects the held-out sentences.
        overwrite: Replace files in `output_dir` that this command has not written.
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
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self):
        if self.size is None and not self.curve:
            raise ValueError(
                "size: neither --size nor --curve is given. Give --size to write a tokenizer, --curve to measure."
            )
        if not self.held_out and not 0 < self.held_out_share < 1:
            raise ValueError(
                f"held_out_share: {self.held_out_share} is not between 0 and 1. Set a share such as 0.05."
            )


def read_corpus(names: list[str]) -> Corpus:
    """Read sentences.

    Args:
        names: Files to read: `FILE.parquet[:COLUMN]` or another source of `load_source`, by default its columns `en`
            and `zh`; or `FILE.txt[:LANGUAGE]` with one sentence per line. The language of a column is its name, unless
            the rows have a column `language`.

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
        languages = rows["language"] if "language" in rows.column_names else [name] * len(rows)
        for language, cell in zip(languages, rows[name], strict=True):
            corpus.setdefault(language, []).extend(usable_captions(cell)[0])


def hold_out(corpus: Corpus, share: float, seed: int) -> tuple[Corpus, Corpus]:
    """Hold out a share of the sentences. A hash of the sentence decides, so equal sentences are on the same side.

    Args:
        corpus: Sentences by language.
        share: Share to hold out, 0..1.
        seed: Key of the hash.

    Returns:
        The remaining corpus and the held-out sentences.
    """
    kept: Corpus = {language: [] for language in corpus}
    held_out: Corpus = {language: [] for language in corpus}
    for language, texts in corpus.items():
        for text in texts:
            digest = hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest()
            is_held_out = int.from_bytes(digest, "big") < share * 2**64
            (held_out if is_held_out else kept)[language].append(text)
    return kept, held_out


def table_mib(num_pieces: int, width: int) -> float:
    """Size in MiB of an embedding table in fp32."""
    return num_pieces * width * 4 / 2**20


def coverage_table(size: int, source_size: int, width: int, coverages: "dict[str, Coverage]") -> str:
    """A text table: a line per language, the size of the embedding table, and the most frequent lost characters.

    Args:
        size: Number of pieces of the cut.
        source_size: Number of pieces of the source.
        width: Width of the embedding table.
        coverages: Coverage by language.
    """
    lines = [
        f"{'':10}{'sentences':>11}{'characters':>12}{'unknown':>10}{'(source)':>10}{'lost':>10}{'unknown pieces':>16}"
        f"{'pieces per sentence':>26}{'same pieces':>13}"
    ]
    for language, each in coverages.items():
        pieces = f"{each.source_pieces_per_sentence:.2f} -> {each.pieces_per_sentence:.2f}"
        lines.append(
            f"{language:10}{each.sentences:>11,}{each.characters:>12,}{each.unknown_characters:>10.4%}"
            f"{each.source_unknown_characters:>10.4%}{each.lost_characters:>10.4%}{each.unknown_pieces:>16.4%}"
            f"{pieces:>26}{each.same_pieces:>13.2%}"
        )
    before, after = table_mib(source_size, width), table_mib(size, width)
    lines.append(
        f"embedding table of width {width} in fp32: {source_size:,} pieces, {before:.1f} MiB -> {size:,} pieces, "
        f"{after:.1f} MiB; {before - after:.1f} MiB saved"
    )
    for language, each in coverages.items():
        if each.lost:
            frequent = " ".join(f"{character} {count}" for character, count in list(each.lost.items())[:SHOWN_LOST])
            lines.append(f"lost, {language}: {len(each.lost)} characters; most frequent: {frequent}")
    return "\n".join(lines)


def coverage_rows(model: str, size: int, width: int, coverages: "dict[str, Coverage]") -> "list[Row]":
    """Result rows of a cut, or of `source`: the coverage of each language, and the size of the embedding table."""
    from training.utils.results import Row

    prefix, metrics = ("source_", SOURCE_METRICS) if model == "source" else ("", SHARES + COUNTS)
    rows = [
        Row(
            model=model,
            set="held_out",
            protocol=PROTOCOL,
            language=language,
            metric=metric,
            value=getattr(each, f"{prefix}{metric}"),
        )
        for language, each in coverages.items()
        for metric in metrics
    ]
    size_mib = round(table_mib(size, width), 2)
    return [*rows, Row(model=model, protocol=f"fp32, width {width}", metric="table_mib", value=size_mib)]


def run(options: VocabularyOptions):
    """Count the corpus once, then cut and measure all sizes; write the tokenizer and the results that are asked for.

    Args:
        options: Options of the command.

    Raises:
        ValueError: If the tokenizer or a file cannot be used, or a size is too small or too large.
    """
    from training.prepare.cut import count_pieces, cut_vocabulary, measure_coverage
    from training.text.pipeline import read_unigram
    from training.text.tokenizers import load_tokenizer
    from training.utils.results import Results, make_meta

    tokenizer = load_tokenizer(options.tokenizer, "tokenizer")
    read_unigram(tokenizer)  # fail before the corpus is read
    corpus = read_corpus(options.corpus)
    if options.held_out:
        held_out = read_corpus(options.held_out)
    else:
        corpus, held_out = hold_out(corpus, options.held_out_share, options.seed)
    counts = count_pieces(tokenizer, chain.from_iterable(corpus.values()))
    corpus_name = ", ".join(Path(_split_name(name)[0]).name for name in options.corpus)
    rows: list[Row] = []
    coverages: dict[str, Coverage] = {}
    for size in sorted({*options.curve, *([] if options.size is None else [options.size])}):
        vocabulary = cut_vocabulary(
            tokenizer,
            counts,
            size,
            ideograph_share=options.ideograph_share,
            max_other_script=options.max_other_script,
            source=options.tokenizer,
            corpus=corpus_name,
        )
        coverages = {name: measure_coverage(vocabulary, tokenizer, texts) for name, texts in held_out.items() if texts}
        print(f"\n{coverage_table(size, len(vocabulary.kept_ids), options.width, coverages)}")
        if size == options.size:
            vocabulary.save(options.output_dir)
            print(f"\n{options.output_dir}: kept {vocabulary.counts}")
        if size in options.curve:
            rows += coverage_rows(f"{size} pieces", size, options.width, coverages)
    if options.curve:
        rows += coverage_rows("source", len(tokenizer), options.width, coverages)
        share = f"{options.held_out_share:.0%} of the corpus, selected by a keyed hash"
        meta = make_meta(
            data=corpus_name,
            seed=options.seed,
            command=command_of(PROGRAM, options),
            held_out=options.held_out or share,
            tokenizer=options.tokenizer,
            sentences=counts.sentences,
        )
        print(f"\n{Results(meta, rows).write(options.output_dir)}")


def main(argv: list[str] | None = None):
    """Parse the options, cut and measure."""
    options = parse_options(VocabularyOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("vocabulary", extra="train"):
        # after parsing, so that --help does not load torch
        from training.text.vocabulary import FILES
        from training.utils.output import claim_folder
        from training.utils.results import RESULTS_FILE

        hide_library_bars()
        names = [*(FILES if options.size is not None else ()), *((RESULTS_FILE,) if options.curve else ())]
        inputs = {"tokenizer": options.tokenizer}
        with claim_folder(options.output_dir, names, command="vocabulary", inputs=inputs, overwrite=options.overwrite):
            run(options)


if __name__ == "__main__":
    main()
