"""Sentences by language, read from files, and the held-out split."""

import hashlib
from pathlib import Path

from training.data import load_source, usable_captions

Corpus = dict[str, list[str]]


def split_name(name: str) -> tuple[str, str | None]:
    """Split `FILE[:COLUMN]` or `module:function[:COLUMN]` into source and column."""
    source, _, column = name.rpartition(":")
    if source.endswith((".parquet", ".txt")) or ":" in source:
        return source, column
    return name, None


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
        raise ValueError(f"corpus: cannot read {source!r} ({error}). Name a text file in UTF-8.") from error
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
