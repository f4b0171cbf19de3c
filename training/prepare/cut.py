"""Cut a multilingual Unigram tokenizer down to English and Chinese.

In a small text tower the embedding table dominates the size: 250,002 pieces of width 384 are 96 M parameters, while
twelve layers of that width are 21 M. A cut keeps scores and order. A text whose pieces are all kept is therefore split
into the same pieces as before, under new ids: the teacher's ids are one lookup away, and a student can learn the
teacher's token states.
"""

import unicodedata
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from training.text.pipeline import (
    cut_pipeline,
    digest,
    read_unigram,
    rebuild,
    untruncated,
)
from training.text.vocabulary import Vocabulary, chunks
from training.text.writing_systems import SUPPORTED_SCRIPTS, script_of

METASPACE = "▁"
# largest share of the kept pieces for Chinese characters that do not occur in the corpus
IDEOGRAPH_SHARE = 0.25
_ASCII = [chr(code) for code in range(0x21, 0x7F)]


class Tier(IntEnum):
    """Priority of a piece; lower tiers are kept first."""

    REQUIRED = 0
    """Special and added tokens, ASCII, punctuation, characters of the corpus, and the piece with the lowest score."""
    IDEOGRAPH = 1
    """Chinese characters that do not occur in the corpus, by score."""
    MET = 2
    """Pieces that occur in the corpus, by count."""
    SUPPORTED = 3
    """Other pieces in Latin and Chinese script, by score."""
    OTHER = 4
    """All other pieces, by score."""


def count_pieces(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> np.ndarray:
    """Count how often each piece of a tokenizer occurs in a corpus, (V_source,) int64. The corpus is read once.

    Raises:
        ValueError: If the tokenizer is slow, is not Unigram or has no unknown piece; or if all texts are empty.
    """
    read_unigram(tokenizer)  # fail before the corpus is counted
    with untruncated(tokenizer) as backend:
        counts = np.zeros(backend.get_vocab_size(), dtype=np.int64)
        sentences = tqdm(filter(str.strip, texts), "counting pieces", unit=" sentences")
        for chunk in chunks(sentences):
            encodings = backend.encode_batch_fast(chunk, add_special_tokens=False)
            ids = [number for encoding in encodings for number in encoding.ids]
            counts += np.bincount(ids, minlength=len(counts))
    if not counts.any():
        raise ValueError(
            "texts: the corpus is empty. Give sentences in the languages that the vocabulary should keep."
        )
    return counts


def _required(
    tokenizer: PreTrainedTokenizerBase,
    pipeline: dict[str, Any],
    pieces: list[str],
    counts: np.ndarray,
) -> np.ndarray:
    """Pieces that the tokenizer or a character of the corpus depends on, (V_source,) bool."""
    model = pipeline["model"]
    required = np.zeros(len(pieces), dtype=bool)
    required[[token["id"] for token in pipeline["added_tokens"]]] = True
    required[[*tokenizer.all_special_ids, model["unk_id"]]] = True
    for token in pipeline["post_processor"]["special_tokens"].values():
        required[token["ids"]] = True
    # The score of an unknown character is the lowest score minus ten. The piece with the lowest score is kept, so that
    # this value does not change and a path through a removed character never wins.
    scores = [score for _, score in model["vocab"]]
    required[np.argmin(scores)] = True
    single = {METASPACE}
    for character in _ASCII:
        single |= {character, METASPACE + character}
    for number in np.flatnonzero(counts).tolist():
        single.update(pieces[number])
    for number, piece in enumerate(pieces):
        is_mark = len(piece) == 1 and unicodedata.category(piece).startswith("P")
        required[number] |= is_mark or piece in single
    return required


def cut_vocabulary(
    tokenizer: PreTrainedTokenizerBase,
    counts: np.ndarray,
    size: int,
    *,
    ideograph_share: float = IDEOGRAPH_SHARE,
    source: str | None = None,
    corpus: str = "",
) -> Vocabulary:
    """Cut a Unigram tokenizer to the pieces that English and Chinese text needs, in the order of `Tier`.

    Unigram selects the segmentation with the highest sum of scores. Scores and order do not change and only competing
    pieces are removed, so a text whose pieces are all kept is split into the same pieces as before.

    Args:
        tokenizer: The source tokenizer, with a `tokenizer.json` whose model is Unigram.
        counts: Occurrences of each piece in the corpus, from `count_pieces`.
        size: Number of pieces to keep, including special tokens.
        ideograph_share: Largest share (0..1) of `size` for Chinese characters that do not occur in the corpus.
        source: Name of the source; default: the tokenizer's own.
        corpus: Name of the corpus.

    Raises:
        ValueError: If the tokenizer is slow, is not Unigram or has no unknown piece; if the size is smaller than the
            number of required pieces or larger than the source.
    """
    pipeline = read_unigram(tokenizer)
    source_size = tokenizer.backend_tokenizer.get_vocab_size()
    # pieces of the model, then added tokens, which have no score
    pieces = [*tokenizer.convert_ids_to_tokens(list(range(source_size)))]
    vocabulary = pipeline["model"]["vocab"]
    scores = np.zeros(source_size)
    scores[: len(vocabulary)] = [score for _, score in vocabulary]
    tiers = np.full(source_size, Tier.OTHER)
    is_ideograph = np.zeros(source_size, dtype=bool)
    for number, piece in enumerate(pieces):
        scripts = {script_of(character) for character in piece}
        if scripts <= {*SUPPORTED_SCRIPTS, None}:
            tiers[number] = Tier.SUPPORTED
        is_ideograph[number] = len(piece) == 1 and scripts == {"Han"}
    tiers[counts > 0] = Tier.MET
    tiers[_required(tokenizer, pipeline, pieces, counts)] = Tier.REQUIRED
    least = int((tiers == Tier.REQUIRED).sum())
    if not least <= size <= source_size:
        raise ValueError(
            f"size: {size} is not between {least} and {source_size}. The source has {source_size} pieces, of which "
            f"special tokens, ASCII, punctuation and the characters of the corpus take {least}. Set more for words."
        )
    ideographs = np.flatnonzero((tiers == Tier.SUPPORTED) & is_ideograph)
    by_score = ideographs[np.argsort(-scores[ideographs], kind="stable")]
    tiers[by_score[: int(ideograph_share * size)]] = Tier.IDEOGRAPH
    best_first = np.lexsort((-scores, -counts, tiers))
    source_ids = np.sort(best_first[:size])
    kept_ids = np.full(source_size, -1, dtype=np.int64)
    kept_ids[source_ids] = np.arange(size)
    kept = {"pieces": int(counts.sum())}
    for tier in Tier:
        kept[tier.name.lower()] = int((tiers[source_ids] == tier).sum())
    return Vocabulary(
        rebuild(tokenizer, cut_pipeline(pipeline, source_ids.tolist())),
        torch.from_numpy(source_ids),
        torch.from_numpy(kept_ids),
        source=source or tokenizer.name_or_path,
        source_digest=digest(pipeline),
        corpus=corpus,
        counts=kept,
    )
