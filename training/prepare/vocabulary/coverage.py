"""Comparison of a cut vocabulary with its source on held-out sentences, and the size of the embedding table."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tokenizers import Encoding, Tokenizer
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from training.text.pipeline import read_pipeline, untruncated
from training.text.vocabulary import Vocabulary, chunks


@dataclass(frozen=True)
class Coverage:
    """Statistics of a cut and its source on the same sentences. Shares are in 0..1; whitespace is not counted.

    Args:
        sentences: Number of sentences.
        characters: Number of characters.
        unknown_characters: Share of characters inside unknown pieces of the cut.
        source_unknown_characters: Share of characters inside unknown pieces of the source.
        lost_characters: Share of characters that are known to the source and unknown to the cut.
        unknown_pieces: Share of the cut's pieces that are the unknown piece.
        source_unknown_pieces: Share of the source's pieces that are the unknown piece.
        pieces_per_sentence: Mean number of pieces of the cut per sentence, without special tokens.
        source_pieces_per_sentence: Mean number of pieces of the source per sentence, without special tokens.
        same_pieces: Share of sentences that both split into the same pieces.
        lost: Lost characters with their counts, most frequent first.
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


class _Counter:
    """Counts pieces and unknown characters of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, backend: Tokenizer):
        self.backend = backend
        self.unknown_id = read_pipeline(tokenizer)["model"]["unk_id"]
        self.pieces = self.unknown_pieces = 0
        self.unknown_characters: Counter[str] = Counter()

    def count(self, texts: list[str]) -> list[Encoding]:
        encodings = self.backend.encode_batch(texts, add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            ids = np.asarray(encoding.ids)
            self.pieces += len(ids)
            for position in np.flatnonzero(ids == self.unknown_id):
                start, end = encoding.offsets[position]  # in characters of the input text
                self.unknown_pieces += 1
                self.unknown_characters.update("".join(text[start:end].split()))
        return encodings


def coverage(vocabulary: Vocabulary, source_tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Coverage:
    """Tokenize sentences of one language with a cut and with its source.

    Args:
        vocabulary: The cut vocabulary.
        source_tokenizer: Tokenizer that the vocabulary was cut from.
        texts: Sentences; empty ones are skipped.

    Raises:
        ValueError: If the tokenizer is not the source of the cut, or all texts are empty.
    """
    vocabulary.check_source(source_tokenizer)
    sentences = characters = same = 0
    texts = (text for text in texts if text.strip())
    texts = tqdm(texts, desc=f"tokenizing with {len(vocabulary)} pieces", unit=" sentences", leave=False)
    with untruncated(vocabulary.tokenizer) as cut_backend, untruncated(source_tokenizer) as source_backend:
        cut, source = _Counter(vocabulary.tokenizer, cut_backend), _Counter(source_tokenizer, source_backend)
        for chunk in chunks(texts):
            same += sum(vocabulary.same_ids(cut.count(chunk), source.count(chunk)))
            sentences += len(chunk)
            characters += sum(len("".join(text.split())) for text in chunk)
    if not sentences:
        raise ValueError("texts: all sentences are empty. Give held-out sentences of this language.")
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
    """Size in MiB of an embedding table in fp32.

    Args:
        num_pieces: Number of pieces in the vocabulary.
        width: Numbers per piece.
    """
    return num_pieces * width * 4 / 2**20
