"""Whether photographs fit a query: the probability, the ranking by a name, and what commands leave out."""

import numpy as np
import pytest

from modeling_dcclip.search.fit import NOUNS, centered, fit_probability, fitting


def test_nouns_are_in_both_languages_and_each_once():
    assert len({*NOUNS}) == len(NOUNS) == 132
    assert [noun.strip() for noun in NOUNS] == NOUNS
    assert [noun.isascii() for noun in NOUNS].count(True) == 66


SPREAD = 3.717  # root of 2 ln(1000)


@pytest.mark.parametrize(
    ("length", "count", "logits"),
    [
        (5, 1, [1, -1]),
        (8, 1, [-2, -3]),
        (5, 1000, [1 - SPREAD, -1 - SPREAD]),
        (8, 1000, [-2 - 2 * SPREAD, -3 - 2 * SPREAD]),
    ],
)
def test_the_probability_is_logistic_in_the_standard_score_among_nouns(length, count, logits):
    scores = np.array([0.3, 0.3])
    similarities = np.array([[0.0, 0.2], [0.1, 0.3]])  # mean 0.1 and 0.2, deviation 0.1
    numbers = (2, -1, -3, 1, -2, -4)
    found = fit_probability(scores, similarities, length, count, numbers)
    expected = 1 / (1 + np.exp(-np.array(logits)))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.9, 0.3, 0.85, 0.8, 0.2], [True, True, True, False, False]),
        ([0.52, 0.5, 0.49], [True, True, False]),
        ([0.4], [False]),
        ([], []),
        ([0.9, 0.2, *[0.3] * 20, 0.99], [True, *[False] * 21, True]),
    ],
)
def test_the_list_ends_at_the_last_that_is_about_as_likely_as_the_best(probabilities, expected):
    assert fitting(np.array(probabilities)).tolist() == expected


def test_a_name_is_compared_without_what_all_nouns_share():
    nouns = np.array([[1.0, 0, 0], [1, 0, 0]])
    query, everything, right = np.array([[0.8, 0.6, 0], [1, 0, 0], [0, 1, 0]])
    assert query @ everything > query @ right
    name = centered(query, nouns, 1)
    assert name @ right > name @ everything
    assert np.linalg.norm(name) == pytest.approx(1)
    np.testing.assert_allclose(centered(query, nouns, 20), query)
