"""Whether photographs fit a query: the probability, the ranking by a name, and what commands leave out."""

import numpy as np
import pytest

from modeling_dcclip.search.query.fit import (
    FIRST,
    NOUNS,
    correct,
    hub_numbers,
    judge,
    name_share,
    standardize,
)


def test_nouns_are_in_both_languages_and_each_once():
    assert len({*NOUNS}) == len(NOUNS) == 132 and [*map(str.strip, NOUNS)] == NOUNS
    assert sum(map(str.isascii, NOUNS)) == 66


NUMBERS = (2, -1, -3, 1, -2, -4)  # three for names, three for sentences
SPREAD = 3.717  # root of 2 ln(1000)


def judged(scores, count, share=1.0, numbers=NUMBERS):
    """What a search without filters is told of its first photographs."""
    ranks = np.arange(1, len(scores) + 1)
    return judge(np.array(scores), ranks, np.array(scores[:FIRST]), share, count, numbers)


@pytest.mark.parametrize(
    ("length", "count", "logit"),
    [(5, 1, 1), (8, 1, -2), (5, 1000, 1 - SPREAD), (8, 1000, -2 - 2 * SPREAD)],
)
def test_the_probability_of_the_best_is_logistic_in_its_standard_score(length, count, logit):
    similarities = np.array([[0.0, 0.2]])  # mean and deviation 0.1
    standard = standardize(np.array([0.3]), similarities)
    (found,), _ = judged(standard, count, name_share(length))
    assert found == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-3)


def test_the_second_of_many_is_judged_as_the_best_of_half_as_many():
    (_, second), _ = judged([3.0, 2.5], 1000)
    (best, _), _ = judged([2.5, 3.0], 500)
    assert second == pytest.approx(best)


def test_a_filter_changes_no_probability():
    """Of 200 photographs, the filter lets the 50th pass."""
    scores = np.linspace(3, 1, 200)
    first, numbers = scores[:FIRST], (2, -1, 1, 0, 0, 0)
    whole, _ = judge(scores, np.arange(1, 201), first, 1.0, 200, numbers)
    (alone,), (is_listed,) = judge(scores[49:50], np.array([50]), first, 1.0, 200, numbers)
    assert alone == pytest.approx(whole[49])
    assert is_listed  # others outside the filter are more likely than not


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        pytest.param([3.0, 1.0, 2.8, 1.7], [1, 1, 1, 0], id="no gap, and none far below the best"),
        pytest.param([1.5, 1.4, 1.3], [1, 1, 0], id="others that are nearly as likely as not"),
        pytest.param([1.45, 1.4], [0, 0], id="nothing"),
        pytest.param([], [], id="no photograph"),
        pytest.param([3.0, *[1.0] * 20, 3.0], [1, *[0] * 20, 1], id="gaps after the first 20"),
    ],
)
def test_the_list_ends_at_the_last_that_is_likely_and_near_the_best(scores, expected):
    numbers = (2, 0, -3, 0, 0, 0)  # independent of the number of photographs
    _, listed = judged(scores, len(scores), numbers=numbers)
    assert listed.tolist() == expected


def test_hubs_lose_what_they_have_with_all_texts():
    """Against a loop over photographs; the bank has 12 captions, of which the ten nearest count."""
    rng = np.random.default_rng(0)
    vectors, bank, nouns = (rng.normal(size=(count, 8)) for count in (4, 12, 11))
    captions, names = hub_numbers(vectors, bank, nouns).T
    for vector, caption, name in zip(vectors, captions, names, strict=True):
        to_nouns = sorted(vector @ nouns.T)
        assert caption == pytest.approx(np.mean(sorted(bank @ vector)[-10:]) / 2, rel=1e-5)
        assert name == pytest.approx(np.mean(to_nouns) / 2 + np.mean(to_nouns[-10:]) / 4, rel=1e-5)
    hubs = hub_numbers(vectors, None, nouns)
    assert not hubs[:, 0].any()
    scores = np.ones(4)
    np.testing.assert_allclose(
        correct(scores, np.stack([captions, names], 1), 0.25), 1 - 0.75 * captions - 0.25 * names
    )
