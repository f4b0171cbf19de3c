r"""Cut a tokenizer to English and Chinese.

Example:
  python -m training.prepare.vocabulary --tokenizer BAAI/AltCLIP --corpus captions.parquet --size 32000 \
      --output_dir runs/cut
"""

import os
from dataclasses import dataclass
from pathlib import Path

from training.utils.cli import hide_library_bars, parse_options, user_errors

PROGRAM = "python -m training.prepare.vocabulary"


@dataclass(frozen=True, kw_only=True)
class VocabularyOptions:
    """Options of the vocabulary command.

    Args:
        tokenizer: Hub id or folder of the source tokenizer.
        corpus: Files to count pieces on: `FILE.parquet[:COLUMN]` (default: columns en and zh), `FILE.txt`,
            or `module:function[:COLUMN]`.
        output_dir: Folder for the cut tokenizer with its ids.
        size: Number of pieces to keep, including special tokens.
        overwrite: Replace files in `output_dir` that this command has not written.
    """

    tokenizer: str
    corpus: list[str]
    output_dir: str
    size: int
    overwrite: bool = False


def read_corpus(names: list[str]) -> list[str]:
    """Read sentences.

    Args:
        names: Files to read: `FILE.parquet[:COLUMN]` or another source of `load_source`, by default its columns `en`
            and `zh`; or `FILE.txt` with one sentence per line.

    Returns:
        The sentences in the order of the files, without empty cells.

    Raises:
        ValueError: If a file is missing, is not UTF-8, or lacks the column.
    """
    from training.data import load_source, usable_captions
    from training.evaluation.sets.class_names import read_lines

    corpus: list[str] = []
    for name in names:
        if name.endswith(".txt"):
            corpus += read_lines(Path(name), "corpus")
            continue
        source, column = _split_name(name)
        rows = load_source(source, field="corpus")
        columns = (
            [column] if column else [each for each in ("en", "zh") if each in rows.column_names]
        )
        if not columns or not set(columns) <= set(rows.column_names):
            raise ValueError(
                f"corpus: {source!r} has no column {column or 'en or zh'}, only {', '.join(rows.column_names)}. Name "
                f"the right one: {source}:COLUMN."
            )
        corpus += (
            text for each in columns for cell in rows[each] for text in usable_captions(cell)[0]
        )
    return corpus


def _split_name(name: str) -> tuple[str, str | None]:
    """Split `FILE[:COLUMN]`, `FOLDER[:COLUMN]` or `module:function[:COLUMN]` into source and column."""
    source, _, column = name.rpartition(":")
    if source.endswith((".parquet", ".tar")) or ":" in source or os.path.isdir(source):
        return source, column
    return name, None


def run(options: VocabularyOptions):
    """Cut the tokenizer, and write it.

    Raises:
        ValueError: If the tokenizer or a file cannot be used, or the size is too small or too large.
    """
    from training.prepare.cut import count_pieces, cut_vocabulary
    from training.text.pipeline import read_unigram
    from training.text.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(options.tokenizer, "tokenizer")
    read_unigram(tokenizer)  # fail before the corpus is read
    counts = count_pieces(tokenizer, read_corpus(options.corpus))
    name = ", ".join(Path(_split_name(name)[0]).name for name in options.corpus)
    vocabulary = cut_vocabulary(
        tokenizer, counts, options.size, source=options.tokenizer, corpus=name
    )
    vocabulary.save(options.output_dir)
    kept = counts.pieces[vocabulary.source_ids.numpy()].sum() / counts.pieces.sum()
    print(
        f"{options.output_dir}: {len(tokenizer):,} -> {len(vocabulary):,} pieces, which make up {kept:.2%} of the "
        "corpus. Words whose pieces were cut are split into smaller ones."
    )


def main(argv: list[str] | None = None):
    """Parse the options and cut."""
    options = parse_options(VocabularyOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("vocabulary", extra="train"):
        # after parsing, so that --help does not load torch
        from training.text.vocabulary import FILES
        from training.utils.output import claim_folder

        hide_library_bars()
        inputs = {"tokenizer": options.tokenizer}
        with claim_folder(
            options.output_dir,
            FILES,
            command="vocabulary",
            inputs=inputs,
            overwrite=options.overwrite,
        ):
            run(options)


if __name__ == "__main__":
    main()
