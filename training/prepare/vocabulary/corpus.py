"""Sentences by language, from the files that the command line names."""

import hashlib
from pathlib import Path

from training.data import load_source, usable_captions

Corpus = dict[str, list[str]]


def split_name(name: str) -> tuple[str, str | None]:
    """`FILE[:COLUMN]` or `module:function[:COLUMN]` as source and column."""
    source, _, column = name.rpartition(":")
    if source.endswith((".parquet", ".txt")) or ":" in source:
        return source, column
    return name, None


def read_corpus(names: list[str]) -> Corpus:
    """Read sentences.

    Args:
        names: each is `FILE.parquet[:COLUMN]` or another source of `load_source`, by default its columns `en` and
            `zh`, or `FILE.txt[:LANGUAGE]`, a sentence a line. The language of a column is its name; where the rows
            have a `language`, it is that.

    Returns:
        Sentences by language, in the order of the files; empty cells are left out.

    Raises:
        ValueError: a file is not there, is not UTF-8, or has no such column.
    """
    corpus: Corpus = {}
    for name in names:
        source, column = split_name(name)
        if source.endswith(".txt"):
            corpus.setdefault(column or "text", []).extend(_read_lines(source))
        else:
            _read_rows(source, column, corpus)
    return corpus


def _read_lines(source: str) -> list[str]:
    try:
        lines = Path(source).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"corpus: cannot read {source!r} ({error}). Give a text file in UTF-8.") from error
    return [line.strip() for line in lines if line.strip()]


def _read_rows(source: str, column: str | None, corpus: Corpus):
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
    """Set a share of the sentences aside. A hash of the sentence decides, so equal ones stay together.

    Args:
        corpus: sentences by language.
        share: 0..1.
        seed: key of the hash.

    Returns:
        What stays, and what is held out.
    """
    kept: Corpus = {language: [] for language in corpus}
    held_out: Corpus = {language: [] for language in corpus}
    for language, texts in corpus.items():
        for text in texts:
            number = hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest()
            held = int.from_bytes(number, "big") < share * 2**64
            (held_out if held else kept)[language].append(text)
    return kept, held_out
