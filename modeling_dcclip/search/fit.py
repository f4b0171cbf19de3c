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
LINE = 0.5  # lowest probability of a photograph that is listed
NEAR = 0.7  # its lowest standard score, as a share of the mean of the `BEST` highest
BEST = 3  # photographs of that mean
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


def judge(
    scores: np.ndarray, share: float, num_photos: int, calibration: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Tell how likely photographs show what a text says, and which of them are listed.

    By chance, the k-th best of N photographs is about as similar as the best of N / k. So hundreds of photographs that
    show a noun support each other. Those are listed that are more likely than not and about as similar as the best
    ones; of the first ones, also those that rank above such a photograph. More photographs change nothing in the list
    of the first ones.

    Args:
        scores: Standard scores of photographs, (K,), in the order of the search.
        share: How far the text is a name, 0 to 1, as `name_share`.
        num_photos: Number of photographs that were searched, N, at least K.
        calibration: `DCCLIPConfig.fit` of the model: slope, growth with the number of photographs, and offset of the
            logit, for names and then for sentences. A photograph is more similar to a sentence of which it shows a
            part than to a wrong name.

    Returns:
        Probabilities, (K,), and whether each photograph is listed, (K,).
    """
    names, sentences = np.reshape(calibration, (2, 3))
    slope, growth, offset = share * names + (1 - share) * sentences
    ranks = np.arange(1, len(scores) + 1)
    logits = slope * scores + growth * expected_maximum(num_photos / ranks) + offset
    probabilities = 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
    best = np.sort(scores[:FIRST])[-BEST:]
    listed = (probabilities >= LINE) & (scores >= NEAR * best.sum() / max(len(best), 1))
    listed[:FIRST] = np.logical_or.accumulate(listed[:FIRST][::-1])[::-1]
    return probabilities, listed


def expected_maximum(count: np.ndarray) -> np.ndarray:
    """About how many standard deviations the largest of `count` normal values is above their mean."""
    return np.sqrt(2 * np.log(count))


def standardize(scores: np.ndarray, similarities: np.ndarray) -> np.ndarray:
    """Standard scores of similarities to a text, (..., K), among those of the same photographs to nouns, (K, N)."""
    return (scores - similarities.mean(1)) / np.maximum(similarities.std(1), 1e-6)
