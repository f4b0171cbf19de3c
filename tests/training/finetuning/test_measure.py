from itertools import permutations

import pytest

from training.finetuning.measure import chance_of


@pytest.mark.parametrize("k", [1, 2, 5])
def test_chance_counts_all_correct_candidates_of_a_query(k):
    """Compared with all orders of four candidates, for one query with one correct candidate and one with three."""
    orders = list(permutations(range(4)))
    expected = [sum(min(order[:right]) < k for order in orders) / len(orders) for right in (1, 3)]
    assert chance_of([1, 3], 4, k) == pytest.approx(sum(expected) / 2)
