"""Whether photographs fit a query: the probability, the ranking by a name, and what commands leave out."""

import numpy as np
import pytest

from modeling_dcclip.search.fit import NOUNS, centered, judge, name_share, standardize


def test_nouns_are_in_both_languages_and_each_once():
    assert len({*NOUNS}) == len(NOUNS) == 132 and [*map(str.strip, NOUNS)] == NOUNS
    assert sum(map(str.isascii, NOUNS)) == 66


NUMBERS = (2, -1, -3, 1, -2, -4)  # three for names, three for sentences
SPREAD = 3.717  # root of 2 ln(1000)


@pytest.mark.parametrize(
    ("length", "count", "logit"),
    [(5, 1, 1), (8, 1, -2), (5, 1000, 1 - SPREAD), (8, 1000, -2 - 2 * SPREAD)],
)
def test_the_probability_of_the_best_is_logistic_in_its_standard_score(length, count, logit):
    similarities = np.array([[0.0, 0.2]])  # mean and deviation 0.1
    standard = standardize(np.array([0.3]), similarities)
    (found,), _ = judge(standard, name_share(length), count, NUMBERS)
    assert found == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-3)


def test_the_second_of_many_is_judged_as_the_best_of_half_as_many():
    scores = np.array([3.0, 2.5])
    (_, second), _ = judge(scores, 1.0, 1000, NUMBERS)
    (best, _), _ = judge(scores[::-1], 1.0, 500, NUMBERS)
    assert second == pytest.approx(best)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        pytest.param([3.0, 1.0, 2.8, 1.7], [1, 1, 1, 0], id="no gap, and none far below the best"),
        pytest.param([1.6, 1.5, 1.4], [1, 1, 0], id="none that is less likely than not"),
        pytest.param([1.4], [0], id="nothing"),
        pytest.param([], [], id="no photograph"),
        pytest.param([3.0, *[1.0] * 20, 3.0], [1, *[0] * 20, 1], id="gaps after the first 20"),
    ],
)
def test_the_list_ends_at_the_last_that_is_likely_and_near_the_best(scores, expected):
    numbers = (2, 0, -3, 0, 0, 0)  # independent of the number of photographs
    _, listed = judge(np.array(scores), 1.0, len(scores), numbers)
    assert listed.tolist() == expected


def test_a_name_is_compared_without_what_all_nouns_share():
    nouns = np.array([[1.0, 0, 0], [1, 0, 0]])
    query, everything, right = np.array([[0.8, 0.6, 0], [1, 0, 0], [0, 1, 0]])
    assert query @ everything > query @ right
    name = centered(query, nouns, 1)
    assert name @ right > name @ everything and np.linalg.norm(name) == pytest.approx(1)
    np.testing.assert_allclose(centered(query, nouns, 20), query)
