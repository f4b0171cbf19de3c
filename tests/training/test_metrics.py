import pytest
import torch

from training.metrics import top_k_accuracy, wilson_interval


def test_top_k_by_hand():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4], [0.3, 0.4, 0.2], [0.9, 0.05, 0.05]])
    labels = torch.tensor([1, 2, 2, 0])  # right, second, third, right
    assert [top_k_accuracy(scores, labels, k) for k in (1, 2, 3)] == [0.5, 0.75, 1.0]


def test_wilson_interval_of_a_published_example():
    # 81 of 263: Newcombe, Statistics in Medicine 17 (1998), table I
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_wilson_interval_stays_within_shares_and_holds_the_observed_one():
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_wilson_interval_narrows_with_more_trials():
    widths = [high - low for low, high in (wilson_interval(0.4, count) for count in (10, 100, 1000))]
    assert widths[0] > widths[1] > widths[2]
