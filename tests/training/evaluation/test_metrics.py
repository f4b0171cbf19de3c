"""Metrics compared with the code of ELEVATER's toolkit, with slow references, and with hand-computed values."""

import numpy as np
import pytest
import torch
import vision_evaluation.evaluators as official

from training.evaluation.metrics import (
    eleven_point_map,
    grouped_interval,
    mean_per_class_accuracy,
    right_ranks,
    roc_auc,
    top_k_accuracy,
    wilson_interval,
)


def report(evaluator, scores, targets):
    """Result of the official code; one evaluator reports one number."""
    evaluator.add_predictions(scores.numpy(), targets.numpy())
    return next(iter(evaluator.get_report().values()))


def equals(value):
    return pytest.approx(value, abs=1e-9)


KINDS = ["float32", "float16", "ties", "softmax"]
SHAPES = [(1, 1), (1, 4), (2, 2), (5, 8), (10, 3), (40, 6), (100, 2), (90, 12)]


def make_scores(kind, num_samples, num_classes, generator):
    scores = torch.randn(num_samples, num_classes, generator=generator, dtype=torch.float64)
    return {
        "float32": scores.float(),
        "float16": scores.half(),
        "ties": scores.round().float(),
        "softmax": (100 * scores).float().softmax(1),  # most values are exactly 0 or 1
    }[kind]


@pytest.fixture(params=KINDS)
def cases(request):
    """Scores and labels of many shapes: one sample, one class, absent classes, few and many samples per class."""
    generator = torch.Generator().manual_seed(KINDS.index(request.param))
    found = []
    for samples, classes in SHAPES * 2:
        scores = make_scores(request.param, samples, classes, generator)
        found.append((scores, torch.randint(classes, (samples,), generator=generator)))
    return found


def slow_accuracy(scores, labels, k):
    """Share of the samples whose class is among the first k, where the lower of equal classes is first."""
    hits = []
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda column: (-row[column], column))
        hits.append(label in order[:k])
    return np.mean(hits)


def test_top_k_ranks_the_lower_index_first_among_ties(cases):
    for scores, labels in cases:
        classes = scores.shape[1]
        for k in {1, min(3, classes), classes}:
            assert top_k_accuracy(scores, labels, k) == equals(slow_accuracy(scores, labels, k))


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
def test_mean_per_class_equals_the_official_code(cases):
    for scores, labels in cases:
        expected = report(official.BalancedAccuracyScoreEvaluator(), scores, labels)
        assert mean_per_class_accuracy(scores, labels) == equals(expected)


@pytest.mark.parametrize(
    "rate", [0.05, 0.3, 1.0], ids=["few labels", "several labels", "all labels"]
)
def test_eleven_point_map_equals_the_official_code(cases, rate):
    generator = torch.Generator().manual_seed(0)
    compared = 0
    for scores, _ in cases:
        targets = (torch.rand(scores.shape, generator=generator) < rate).long()
        if targets.any():
            evaluator = official.MeanAveragePrecisionNPointsEvaluator(11)
            expected = report(evaluator, scores, targets)
            assert eleven_point_map(scores, targets) == equals(expected)
            compared += 1
    assert compared > len(cases) / 3


def test_roc_auc_equals_the_official_code(cases):
    compared = 0
    for scores, labels in cases:
        if scores.shape[1] == 2 and 0 < labels.sum() < len(labels):
            expected = report(official.RocAucEvaluator(), scores, labels)
            assert roc_auc(scores, labels) == equals(expected)
            compared += 1
    assert compared >= 2


@pytest.mark.parametrize("label", [0, 1])
def test_roc_auc_needs_both_labels(label):
    with pytest.raises(ValueError, match=f"labels: all 3 are {label}, need both 0 and 1"):
        roc_auc(torch.rand(3, 2), torch.full((3,), label))


def test_recall_is_zero_if_all_scores_are_equal():
    pairs = torch.tensor([[0, 0], [0, 1], [1, 2], [1, 3]])
    # behind the two texts of the other image
    assert right_ranks(torch.ones(2, 4), pairs).tolist() == [2, 2]


def test_scores_that_are_not_finite_are_reported():
    scores = torch.tensor([[0.2, 0.8], [float("nan"), 0.3], [0.4, 0.6]])
    with pytest.raises(ValueError, match="scores: row 1, column 0 is nan"):
        top_k_accuracy(scores, torch.tensor([1, 0, 0]))


def test_wilson_interval_of_a_published_example():
    # 81 of 263: Newcombe, Statistics in Medicine 17 (1998), table I
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


@pytest.mark.parametrize("count", [10, 69])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_interval_has_its_share(share, count):
    low, high = wilson_interval(share, count)
    assert low <= share <= high


def test_grouped_interval_is_that_of_the_trials_or_of_the_groups():
    hits = torch.tensor([True, False, False, True, True, False, True, True])
    groups = torch.arange(8)
    expected = pytest.approx(wilson_interval(5 / 8, 8))
    assert grouped_interval(hits, groups) == expected
    assert grouped_interval(hits.repeat_interleave(5), groups.repeat_interleave(5)) == expected
    always = torch.ones(10, dtype=torch.bool)
    assert grouped_interval(always, torch.arange(10) // 5) == wilson_interval(1.0, 2)
