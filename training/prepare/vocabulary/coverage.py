"""What a cut costs on text it has not seen, and what it saves."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from training.text.pipeline import read_pipeline, unbounded
from training.text.vocabulary import Vocabulary, chunks


@dataclass(frozen=True)
class Coverage:
    """How a cut and its source read the same sentences. Shares are 0..1; white space is no character.

    Args:
        sentences: how many.
        characters: in all.
        unknown_characters: share of characters inside unknown pieces.
        source_unknown_characters: the same, as the source reads.
        lost_characters: share of characters that the source knows and the cut does not.
        unknown_pieces: share of pieces that are the unknown one.
        source_unknown_pieces: the same, as the source reads.
        pieces_per_sentence: without special tokens.
        source_pieces_per_sentence: the same, as the source reads.
        same_pieces: share of sentences that both read in the same pieces.
        lost: these characters with their counts, frequent first.
    """

    sentences: int
    characters: int
    unknown_characters: float
    source_unknown_characters: float
    lost_characters: float
    unknown_pieces: float
    source_unknown_pieces: float
    pieces_per_sentence: float
    source_pieces_per_sentence: float
    same_pieces: float
    lost: dict[str, int]


class _Reader:
    """One tokenizer's side of the count."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, backend: Tokenizer):
        self.backend = backend
        self.unknown_id = read_pipeline(tokenizer)["model"]["unk_id"]
        self.pieces = self.unknown_pieces = 0
        self.unknown_characters: Counter[str] = Counter()

    def read(self, texts: list[str]) -> list:
        encodings = self.backend.encode_batch(texts, add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            ids = np.asarray(encoding.ids)
            self.pieces += len(ids)
            for position in np.flatnonzero(ids == self.unknown_id):
                start, end = encoding.offsets[position]  # in characters of the text itself
                self.unknown_pieces += 1
                self.unknown_characters.update("".join(text[start:end].split()))
        return encodings


def coverage(vocabulary: Vocabulary, source_tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Coverage:
    """Read sentences of one language with a cut and with its source.

    Args:
        vocabulary: the cut.
        source_tokenizer: that it was cut from.
        texts: sentences; empty ones are passed over.

    Raises:
        ValueError: it is not the source, or there is no text.
    """
    vocabulary.check_source(source_tokenizer)
    sentences = characters = same = 0
    texts = (text for text in texts if text.strip())
    texts = tqdm(texts, desc=f"reading with {len(vocabulary)} pieces", unit=" sentences", leave=False)
    with unbounded(vocabulary.tokenizer) as cut_backend, unbounded(source_tokenizer) as source_backend:
        cut, source = _Reader(vocabulary.tokenizer, cut_backend), _Reader(source_tokenizer, source_backend)
        for chunk in chunks(texts):
            same += sum(vocabulary.same_ids(cut.read(chunk), source.read(chunk)))
            sentences += len(chunk)
            characters += sum(len("".join(text.split())) for text in chunk)
    if not sentences:
        raise ValueError("texts: there is nothing to read. Give held-out sentences of this language.")
    lost = cut.unknown_characters - source.unknown_characters
    return Coverage(
        sentences,
        characters,
        unknown_characters=cut.unknown_characters.total() / characters,
        source_unknown_characters=source.unknown_characters.total() / characters,
        lost_characters=lost.total() / characters,
        unknown_pieces=cut.unknown_pieces / max(1, cut.pieces),
        source_unknown_pieces=source.unknown_pieces / max(1, source.pieces),
        pieces_per_sentence=cut.pieces / sentences,
        source_pieces_per_sentence=source.pieces / sentences,
        same_pieces=same / sentences,
        lost=dict(lost.most_common()),
    )


def table_mib(num_pieces: int, width: int) -> float:
    """MiB of an fp32 embedding table of so many pieces and so many numbers a piece."""
    return num_pieces * width * 4 / 2**20
