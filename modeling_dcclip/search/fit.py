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
LINE = 0.5  # lowest probability of a fitting photograph
NEAR = 0.93  # its lowest share of the best one's
FIRST = 20  # photographs whose list has no gaps
SHORT = 5  # tokens of a name at most
LONG = 8  # tokens of a sentence at least


def name_share(num_tokens: int) -> float:
    """How far a text is a name and not a sentence, 0 to 1, by its number of tokens without special tokens."""
    return float(np.clip((LONG - num_tokens) / (LONG - SHORT), 0, 1))


def centered(query: np.ndarray, nouns: np.ndarray, num_tokens: int) -> np.ndarray:
    """Remove from the embedding of a name what all nouns have in common.

    Some photographs are similar to every name. Without the mean noun, a search by a name finds more right ones;
    sentences are found better as they are.

    Args:
        query: Embedding of the query, (D,), of unit length.
        nouns: Embeddings of `NOUNS`, (N, D).
        num_tokens: Number of tokens of the query.

    Returns:
        (D,), of unit length.
    """
    query = query - name_share(num_tokens) * nouns.mean(0)
    return query / max(np.linalg.norm(query), 1e-6)


def fit_probability(
    scores: np.ndarray,
    similarities: np.ndarray,
    num_tokens: int,
    num_photos: int,
    calibration: Sequence[float],
) -> np.ndarray:
    """Probability that a photograph shows what a text says, if no other matches the text better.

    Args:
        scores: Cosine similarities of the photographs to the text, (K,).
        similarities: Their cosine similarities to `NOUNS`, (K, N).
        num_tokens: Number of tokens of the text.
        num_photos: Number of photographs that were searched, at least 1.
        calibration: `DCCLIPConfig.fit` of the model: three numbers for `logistic` of names, and three of sentences. A
            photograph is more similar to a sentence of which it shows a part than to a wrong name.

    Returns:
        Values in 0..1, (K,).
    """
    return logistic(
        standardize(scores, similarities), name_share(num_tokens), num_photos, calibration
    )


def logistic(
    scores: np.ndarray, share: np.ndarray | float, num_photos: int, calibration: Sequence[float]
) -> np.ndarray:
    """Probability of standard scores, of the same shape: a logistic function that depends on the number searched.

    The best of many photographs that do not fit has a higher score than the best of few. `share` tells how far the
    text is a name: one value, or one for each row of scores.
    """
    slope, growth, offset = (
        share * name + (1 - share) * other
        for name, other in zip(calibration[:3], calibration[3:], strict=True)
    )
    logits = slope * scores + growth * expected_maximum(num_photos) + offset
    return 1 / (1 + np.exp(-np.clip(logits, -50, 50)))


def expected_maximum(count: np.ndarray | int) -> np.ndarray:
    """About how many standard deviations the largest of `count` normal values is above their mean."""
    return np.sqrt(2 * np.log(count))


def fitting(probabilities: np.ndarray) -> np.ndarray:
    """Which photographs of each query are listed, (..., K) in the order of the search.

    These are more likely than not and about as likely as the best of the first ones; of the first ones, also those
    that rank above another of them. More photographs change nothing in the list of the first ones.
    """
    best = probabilities[..., :FIRST].max(-1, keepdims=True, initial=0)
    near = probabilities >= np.maximum(LINE, NEAR * best)
    near[..., :FIRST] = np.logical_or.accumulate(near[..., :FIRST][..., ::-1], -1)[..., ::-1]
    return near


def standardize(scores: np.ndarray, similarities: np.ndarray) -> np.ndarray:
    """Standard scores of similarities to a text, (..., K), among those of the same photographs to nouns, (K, N)."""
    return (scores - similarities.mean(1)) / np.maximum(similarities.std(1), 1e-6)
