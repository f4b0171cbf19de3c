"""How two rankings of images agree, on scores whose order is known."""

import numpy as np
import pytest

from training.studies.tools.agreement import TIE, agreement
from training.studies.tools.encoder import TOP, best_rows

SCORES = np.linspace(1, 0, 20)[None]  # the images are in order


def shares(found: list[int], scores: np.ndarray = SCORES) -> tuple[float, ...]:
    result = agreement(np.array([found]), scores)
    return result.same_set, result.same_order, result.tied_set, result.tied_order


def test_the_same_ranking_agrees_in_every_way():
    assert shares(list(range(TOP))) == (1, 1, 1, 1)


def test_another_order_is_the_same_set():
    assert shares([1, 0, *range(2, TOP)]) == (1, 0, 1, 0)


def test_another_image_is_another_set():
    assert shares([*range(TOP - 1), TOP]) == (0, 0, 0, 0)


def test_images_of_equal_score_may_replace_each_other_if_ties_are_allowed():
    scores = SCORES.copy()
    scores[0, TOP] = scores[0, TOP - 1] - TIE / 2
    assert shares([*range(TOP - 1), TOP], scores) == (0, 0, 1, 1)
    scores[0, 1] = scores[0, 0] - TIE / 2
    assert shares([1, 0, *range(2, TOP)], scores) == (1, 0, 1, 1)


def test_an_image_that_is_found_twice_does_not_count_as_tied():
    scores = SCORES.copy()
    scores[0, 1] = scores[0, 0]
    assert shares([0, 0, *range(2, TOP)], scores) == (0, 0, 0, 0)


def test_the_shares_are_means_over_queries():
    scores = np.repeat(SCORES, 4, 0)
    found = best_rows(scores)
    found[0, 0] = 19
    assert agreement(found, scores).same_set == pytest.approx(0.75)
