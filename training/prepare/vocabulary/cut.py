"""Which pieces stay: count them on a corpus, rank them, cut the rest."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from training.text.pipeline import cut_pipeline, digest, id_slots, read_unigram, rebuild, unbounded
from training.text.vocabulary import Vocabulary, chunks
from training.text.writing_systems import OURS, is_ideograph, is_ours, is_punctuation, script_of

METASPACE = "▁"
_ASCII = [chr(code) for code in range(0x21, 0x7F)]


class Tier(IntEnum):
    """Why a piece stays; the first come first."""

    REQUIRED = 0
    """Special and added tokens, ASCII, punctuation, characters met in the corpus, the piece of the lowest score."""
    IDEOGRAPH = 1
    """Chinese characters that the corpus happens not to have, by score."""
    MET = 2
    """Pieces met in the corpus, by count."""
    OURS = 3
    """Other pieces in Latin and Chinese letters, by score."""
    OTHER = 4
    """Whatever is left, by score."""


@dataclass(frozen=True)
class PieceCounts:
    """What a corpus is made of.

    Args:
        pieces: (V_source,) int64, how often each piece was met.
        letters: how often each script was met, in letters.
        sentences: texts that were not empty.
    """

    pieces: np.ndarray
    letters: Counter[str]
    sentences: int


def _checked(texts: Iterable[str]) -> Iterator[str]:
    if isinstance(texts, str):
        raise ValueError(f"texts: got one string, {texts[:20]!r}. Give a list of sentences.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"texts: number {number} is {text!r}, not a string. Leave such rows out.")
        if text.strip():
            yield text


def count_pieces(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> PieceCounts:
    """Count the pieces of a tokenizer on a corpus, as it streams by.

    Args:
        tokenizer: the source.
        texts: sentences; empty ones are passed over.

    Raises:
        ValueError: a text is no string, or there is none.
    """
    characters: Counter[str] = Counter()
    sentences = 0
    with unbounded(tokenizer) as backend:
        counts = np.zeros(backend.get_vocab_size(), dtype=np.int64)
        for chunk in chunks(tqdm(_checked(texts), desc="counting pieces", unit=" sentences")):
            encodings = backend.encode_batch_fast(chunk, add_special_tokens=False)
            ids = np.concatenate([np.asarray(encoding.ids, dtype=np.int64) for encoding in encodings])
            counts += np.bincount(ids, minlength=len(counts))
            characters.update("".join(chunk))
            sentences += len(chunk)
    if not sentences:
        raise ValueError("texts: the corpus is empty. Give sentences in the languages that the vocabulary shall keep.")
    letters: Counter[str] = Counter()
    for character, count in characters.items():
        if script := script_of(character):
            letters[script] += count
    return PieceCounts(counts, letters, sentences)


def _check_scripts(letters: Counter[str], max_other_script: float):
    others = [(script, count) for script, count in letters.most_common() if script not in OURS]
    share = sum(count for _, count in others) / max(1, letters.total())
    if share > max_other_script:
        script, count = others[0]
        raise ValueError(
            f"texts: {100 * share:.0f} % of the letters are neither Latin nor Chinese, most of them {script} "
            f"({100 * count / letters.total():.0f} %); max_other_script is {100 * max_other_script:.0f} %. A cut for "
            "such text would lose what English and Chinese need: give another corpus, or raise max_other_script."
        )


def _required(tokenizer: PreTrainedTokenizerBase, pipeline: dict[str, Any], pieces: list[str], counts: np.ndarray):
    """(V_source,) bool: pieces without which the tokenizer would break, or lose a character that is in use."""
    model = pipeline["model"]
    required = np.zeros(len(pieces), dtype=bool)
    required[[token["id"] for token in pipeline["added_tokens"]]] = True
    required[[*tokenizer.all_special_ids, model["unk_id"]]] = True
    required[[ids[position] for ids, position in id_slots(pipeline["post_processor"])]] = True
    # an unknown character costs the lowest score less ten: that piece stays, so that the cost stays, and no path
    # through a character that was cut ever wins
    required[int(np.argmin([score for _, score in model["vocab"]]))] = True
    met = set("".join(pieces[number] for number in np.flatnonzero(counts)))
    wanted = {METASPACE, *_ASCII, *(METASPACE + character for character in _ASCII), *met}
    return required | np.array([piece in wanted or is_punctuation(piece) for piece in pieces])


def cut_counted(
    tokenizer: PreTrainedTokenizerBase,
    counts: PieceCounts,
    size: int,
    *,
    ideograph_share: float = 0.25,
    max_other_script: float = 0.2,
    source: str | None = None,
    corpus: str = "",
) -> Vocabulary:
    """`cut_vocabulary` for a corpus that is already counted."""
    pipeline = read_unigram(tokenizer)
    source_size = tokenizer.backend_tokenizer.get_vocab_size()
    if size > source_size:
        raise ValueError(f"size: {size} is more than the {source_size} pieces of the source. Give a smaller size.")
    _check_scripts(counts.letters, max_other_script)
    pieces = [piece for piece, _ in pipeline["model"]["vocab"]]
    scores = np.zeros(source_size)
    scores[: len(pieces)] = [score for _, score in pipeline["model"]["vocab"]]
    pieces += tokenizer.convert_ids_to_tokens(list(range(len(pieces), source_size)))

    tiers = np.where([is_ours(piece) for piece in pieces], Tier.OURS, Tier.OTHER)
    tiers[counts.pieces > 0] = Tier.MET
    tiers[_required(tokenizer, pipeline, pieces, counts.pieces)] = Tier.REQUIRED
    if (least := int((tiers == Tier.REQUIRED).sum())) > size:
        raise ValueError(
            f"size: {size} is too small. Special tokens, ASCII, punctuation and the characters of the corpus are "
            f"{least} pieces: give at least {least}, and more for words."
        )
    ideographs = np.array([i for i in np.flatnonzero(tiers == Tier.OURS) if is_ideograph(pieces[i])], dtype=int)
    tiers[ideographs[np.argsort(-scores[ideographs], kind="stable")][: int(ideograph_share * size)]] = Tier.IDEOGRAPH

    source_ids = np.sort(np.lexsort((-scores, -counts.pieces, tiers))[:size])
    kept_ids = np.full(source_size, -1, dtype=np.int64)
    kept_ids[source_ids] = np.arange(size)
    kept = {tier.name.lower(): int((tiers[source_ids] == tier).sum()) for tier in Tier}
    return Vocabulary(
        rebuild(tokenizer, cut_pipeline(pipeline, kept_ids.tolist())),
        torch.from_numpy(source_ids),
        torch.from_numpy(kept_ids),
        source=source or tokenizer.name_or_path,
        source_digest=digest(pipeline),
        corpus=corpus,
        counts={"sentences": counts.sentences, "pieces": int(counts.pieces.sum())} | kept,
    )


def cut_vocabulary(
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    size: int,
    *,
    ideograph_share: float = 0.25,
    max_other_script: float = 0.2,
    source: str | None = None,
    corpus: str = "",
) -> Vocabulary:
    """Cut a Unigram tokenizer to the pieces that English and Chinese text needs, in the order of `Tier`.

    Unigram takes the pieces with the highest sum of scores. Scores and order do not change and only competitors are
    left out, so a text whose pieces are all kept is read in the same pieces as before.

    Args:
        tokenizer: the source, with a `tokenizer.json` whose model is Unigram.
        texts: the corpus, sentence by sentence; it is read once.
        size: pieces in all, special tokens included.
        ideograph_share: largest share (0..1) of `size` for Chinese characters that the corpus does not have.
        max_other_script: largest share (0..1) of the corpus's letters that may be neither Latin nor Chinese.
        source: name of the source; default: the tokenizer's own.
        corpus: name of the corpus.

    Raises:
        ValueError: the tokenizer is slow, not Unigram or has no unknown piece; the size is smaller than what must stay
            or larger than the source; the corpus is empty, no text, or in other scripts.
    """
    read_unigram(tokenizer)  # before the corpus is read
    counts = count_pieces(tokenizer, texts)
    return cut_counted(
        tokenizer,
        counts,
        size,
        ideograph_share=ideograph_share,
        max_other_script=max_other_script,
        source=source,
        corpus=corpus,
    )
