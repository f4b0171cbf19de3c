"""How likely a photograph shows what a text says, from its similarities to the text and to common nouns."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

# 66 common nouns, in English and in Chinese
NOUNS = (
    (Path(__file__).parent / "nouns.txt")
    .read_text(encoding="utf-8")
    .strip()
    .replace("\t", "\n")
    .split("\n")
)
LINE = 0.5  # lowest probability of the best photograph of a list that fits
OTHERS = 0.45  # lowest probability of the others; with `LINE`, a list may have one of many
NEAR = 0.7  # its lowest standard score, as a share of the mean of the `BEST` highest
BEST = 3  # photographs of that mean
FIRST = 20  # photographs whose list has no gaps
MAYBE = 0.1  # lowest probability of the best photograph of a list that may fit
NEAREST = 10  # texts of a bank to which a hub is similar
SHORT = 5  # tokens of a name at most
LONG = 8  # tokens of a sentence at least


def name_share(num_tokens: int) -> float:
    """How far a text is a name and not a sentence, 0 to 1, by its number of tokens without special tokens."""
    return float(np.clip((LONG - num_tokens) / (LONG - SHORT), 0, 1))


def hub_numbers(vectors: np.ndarray, bank: np.ndarray | None, nouns: np.ndarray) -> np.ndarray:
    """How much of a similarity to a caption and to a name is for a photograph's similarity to all texts.

    Args:
        vectors: Embeddings of photographs, (K, D), of unit length.
        bank: Embeddings of captions that are no queries, (M, D), of unit length; None without a bank.
        nouns: Embeddings of `NOUNS`, (N, D), of unit length.

    Returns:
        (K, 2) float32. For captions, half of the mean of the `NEAREST` highest similarities to the bank, 0 without a
        bank. For names, half of the mean similarity to nouns, and a quarter of the mean of the highest ones.

    Source: CSLS, Conneau et al., arXiv 1710.04087; query-bank normalization, Bogolin et al., arXiv 2112.12777. The
        shares were chosen on validation photographs.
    """
    to_nouns = vectors @ nouns.T
    names = to_nouns.mean(1) / 2 + _mean_of_highest(to_nouns) / 4
    captions = np.zeros(len(vectors)) if bank is None else _mean_of_highest(vectors @ bank.T) / 2
    return np.stack([captions, names], 1).astype(np.float32)


def _mean_of_highest(similarities: np.ndarray) -> np.ndarray:
    count = min(NEAREST, similarities.shape[1])
    return np.partition(similarities, -count, 1)[:, -count:].mean(1)


def correct(scores: np.ndarray, hubs: np.ndarray, share: float | np.ndarray) -> np.ndarray:
    """Scores of a search: similarities to texts less what hubs have with all texts.

    Args:
        scores: Cosine similarities of photographs to a text, (K,), or to Q texts, (Q, K).
        hubs: Their `hub_numbers`, (K, 2).
        share: How far the text is a name, 0 to 1, as `name_share`; of Q texts (Q,).

    Returns:
        The same shape as `scores`.
    """
    share = np.asarray(share, np.float32)
    return scores - (hubs @ np.stack([1 - share, share])).T


def judge(
    scores: np.ndarray,
    ranks: np.ndarray,
    first: np.ndarray,
    share: float,
    num_photos: int,
    calibration: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Tell how likely photographs show what a text says, and which of them are listed.

    By chance, the k-th best of N photographs is about as similar as the best of N / k. So hundreds of photographs that
    show a noun support each other. If one is more likely than not, those are listed that are nearly so and about as
    similar as the best ones; of the first ones, also those that rank above such a photograph. The whole library is the
    background: a date or a path changes no probability.

    Args:
        scores: Standard scores of photographs, (K,), in the order of the search.
        ranks: Their ranks among all photographs, from 1, (K,).
        first: Standard scores of the first photographs of all, (F,), as many as `FIRST` or fewer.
        share: How far the text is a name, 0 to 1, as `name_share`.
        num_photos: Number of all photographs, N.
        calibration: `DCCLIPConfig.fit` of the model: slope, growth with the number of photographs, and offset of the
            logit, for names and then for sentences. A photograph is more similar to a sentence of which it shows a
            part than to a wrong name.

    Returns:
        Probabilities, (K,), and whether each photograph is listed, (K,).
    """
    names, sentences = np.reshape(calibration, (2, 3))
    slope, growth, offset = share * names + (1 - share) * sentences
    of_all = np.concatenate([scores, first])
    places = np.concatenate([ranks, np.arange(1, len(first) + 1)])
    chance = expected_maximum(np.maximum(num_photos / places, 1))
    logits = slope * of_all + growth * chance + offset
    likely = 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
    probabilities = likely[: len(scores)]
    best = np.sort(first)[-BEST:]
    listed = (probabilities >= OTHERS) & (scores >= NEAR * best.sum() / max(len(best), 1))
    listed &= likely.max(initial=0) >= LINE
    listed[:FIRST] = np.logical_or.accumulate(listed[:FIRST][::-1])[::-1]
    return probabilities, listed


def expected_maximum(count: np.ndarray) -> np.ndarray:
    """About how many standard deviations the largest of `count` normal values is above their mean."""
    return np.sqrt(2 * np.log(count))


def standardize(scores: np.ndarray, similarities: np.ndarray) -> np.ndarray:
    """Standard scores of similarities to a text, (..., K), among those of the same photographs to nouns, (K, N)."""
    return (scores - similarities.mean(1)) / np.maximum(similarities.std(1), 1e-6)
