r"""Cut a tokenizer to English and Chinese.

Example:
  python -m training.prepare.vocabulary --tokenizer BAAI/AltCLIP --corpus captions.parquet --size 32000 \
      --output_dir runs/cut
"""

from dataclasses import dataclass, field
from pathlib import Path

from training.utils.cli import hide_library_bars, parse_options, user_errors

PROGRAM = "python -m training.prepare.vocabulary"


@dataclass(frozen=True, kw_only=True)
class VocabularyOptions:
    """Options of the vocabulary command.

    Args:
        tokenizer: Hub id or folder of the source tokenizer.
        corpus: Data to count pieces on, as `data.train` in a recipe: parquet files, tables, a Hub id, or
            `module:function`.
        output_dir: Folder for the cut tokenizer with its ids.
        size: Number of pieces to keep, including special tokens.
        columns: Columns of the texts; each source needs one of them.
        overwrite: Replace files in `output_dir` that this command has not written.
    """

    tokenizer: str
    corpus: list[str]
    output_dir: str
    size: int
    columns: list[str] = field(default_factory=lambda: ["en", "zh"])
    overwrite: bool = False


def read_corpus(names: list[str], columns: list[str]) -> list[str]:
    """Read the texts of some columns of sources, without empty cells.

    Raises:
        ValueError: A source cannot be read, or has none of the columns.
    """
    from training.data import load_source, usable_captions

    corpus: list[str] = []
    for name in names:
        rows = load_source(name, field="corpus")
        found = [column for column in columns if column in rows.column_names]
        if not found:
            raise ValueError(
                f"corpus: {name!r} has none of the columns {', '.join(columns)}, only {', '.join(rows.column_names)}. "
                "Name the right ones: --columns COLUMN."
            )
        for column in found:
            for cell in rows[column]:
                corpus += usable_captions(cell)[0]
    return corpus


def cut_vocabulary(options: VocabularyOptions):
    """Cut the tokenizer, and write it.

    Raises:
        ValueError: If the tokenizer or a source cannot be used, or the size is too small or too large.
    """
    from training.prepare.cut import count_pieces, cut_vocabulary
    from training.text.pipeline import read_unigram
    from training.text.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(options.tokenizer, "tokenizer")
    read_unigram(tokenizer)  # fail before the corpus is read
    counts = count_pieces(tokenizer, read_corpus(options.corpus, options.columns))
    name = ", ".join(Path(each).name for each in options.corpus)
    vocabulary = cut_vocabulary(
        tokenizer, counts, options.size, source=options.tokenizer, corpus=name
    )
    vocabulary.save(options.output_dir)
    kept = counts[vocabulary.source_ids.numpy()].sum() / counts.sum()
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
            cut_vocabulary(options)


if __name__ == "__main__":
    main()
