"""How far the ten best images of a tool agree with those of transformers."""

from dataclasses import dataclass

import numpy as np

from training.studies.tools.encoder import best_rows

TIE = 1e-6  # cosines that differ by less are equal up to rounding


@dataclass(frozen=True)
class Agreement:
    """Shares of the queries, in 0..1.

    Args:
        same_set: Queries with the same ten images, in any order.
        same_order: Queries with the same ten images in the same order.
        tied_set: As `same_set`, where images whose cosines in transformers differ by less than 1e-6 may replace each
            other.
        tied_order: As `same_order`, where such images may also change places.
    """

    same_set: float
    same_order: float
    tied_set: float
    tied_order: float


def agreement(found: np.ndarray, scores: np.ndarray) -> Agreement:
    """Compare rankings with those of transformers.

    Args:
        found: Numbers of the ten best images of a tool for each query, the best first, (Q, 10).
        scores: Cosines of all queries and images in transformers, (Q, N).

    Returns:
        The shares.
    """
    best = best_rows(scores)
    own, expected = (np.take_along_axis(scores, rows, 1) for rows in (found, best))
    distinct = np.array([len(set(row)) == len(row) for row in found.tolist()])
    tied_order = (abs(own - expected) < TIE).all(1) & distinct
    tied_set = (abs(np.sort(own, 1) - np.sort(expected, 1)) < TIE).all(1) & distinct
    return Agreement(
        same_set=float((np.sort(found, 1) == np.sort(best, 1)).all(1).mean()),
        same_order=float((found == best).all(1).mean()),
        tied_set=float(tied_set.mean()),
        tied_order=float(tied_order.mean()),
    )
