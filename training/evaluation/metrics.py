"""Metrics as pure functions: the four of ELEVATER, recall at k, and confidence intervals.

ELEVATER's metrics equal its toolkit's, which uses the package `vision-evaluation`. A tie is two equal scores.
Scores are compared in their own precision, half precision included.
"""

import math

import torch
from torch import Tensor

Z = 1.959964  # two-sided 95 % quantile of the normal distribution


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Share of samples whose label is among the k highest scores; with k = 1, "accuracy" in ELEVATER.

    Among tied classes, the one with the lower index ranks first. The toolkit does the same at k = 1; at a higher k it
    picks an arbitrary one of the classes that tie for the last rank.

    Args:
        scores: Scores of all classes, (N, C).
        labels: Class indices in 0..C-1, (N,), of any integer dtype.
        k: Number of highest scores, in 1..C.

    Returns:
        Value in 0..1.

    Raises:
        ValueError: A score is not finite.

    Source: ELEVATER, Li et al., arXiv 2204.08790; `TopKAccuracyEvaluator`.
    """
    _require_finite(scores)
    own = labels.to(scores.device).long()[:, None]  # (N, 1)
    columns = torch.arange(scores.shape[1], device=scores.device)
    label_scores = scores.gather(1, own)
    ahead = (scores > label_scores).sum(1) + ((scores == label_scores) & (columns < own)).sum(1)
    return int((ahead < k).sum()) / len(scores)


def mean_per_class_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Mean over classes of the recall of each class; "mean-per-class" in ELEVATER, also known as balanced accuracy.

    A class without samples is ignored, as in the toolkit: it is not in the mean, and it cannot be predicted. A subset
    of a test set therefore has fewer classes to choose from. Among tied classes, the lower index is predicted.

    Args:
        scores: Scores of all classes, (N, C).
        labels: Class indices in 0..C-1, (N,), of any integer dtype.

    Returns:
        Value in 0..1.

    Raises:
        ValueError: A score is not finite.

    Source: ELEVATER, Li et al., arXiv 2204.08790; `BalancedAccuracyScoreEvaluator`.
    """
    _require_finite(scores)
    labels = labels.to(scores.device).long()
    present, labels, counts = labels.unique(return_inverse=True, return_counts=True)
    predicted = scores[:, present].argmax(1)  # the first of several maxima
    hits = labels[predicted == labels].bincount(minlength=len(present))
    return (hits.double() / counts).mean().item()


def eleven_point_map(scores: Tensor, targets: Tensor) -> float:
    """Mean over classes of 11-point interpolated average precision, for several labels per sample; "11point_mAP".

    For each class, samples are sorted by their score; tied samples enter together. The precision at recall r is the
    highest precision at any recall of at least r, and the average is over r = 0, 0.1 ... 1. At r = 0 the precision
    counts as 1, as in the toolkit, whose curve ends there; the VOC devkit takes the highest precision of the curve,
    which makes the average up to 1/11 lower. A class without a positive sample is left out of the mean.

    Args:
        scores: Scores of all classes, (N, C).
        targets: Labels, (N, C), 1 where the sample has the label, else 0, of any dtype. A row may have several labels
            or none.

    Returns:
        Value in 1/11..1.

    Raises:
        ValueError: A score is not finite, or no target is 1 (for which the toolkit reports 0).

    Source: VOC 2007, Everingham et al., IJCV 88 (2010), section 4.2; ELEVATER, Li et al., arXiv 2204.08790;
        `MeanAveragePrecisionNPointsEvaluator`.
    """
    _require_finite(scores)
    precisions = [
        _average_precision(column, target.to(scores.device).bool())
        for column, target in zip(scores.unbind(1), targets.unbind(1), strict=True)
        if target.any()
    ]
    if not precisions:
        raise ValueError(
            "targets: no sample has a label, so precision is undefined. Check the column of labels."
        )
    return torch.stack(precisions).mean().item()


def _average_precision(scores: Tensor, positive: Tensor) -> Tensor:
    """11-point average precision of one class: scores (N,) and labels (N,) bool to a scalar in float64."""
    scores, order = scores.sort(descending=True)
    is_last = torch.cat([scores[1:] != scores[:-1], scores.new_ones(1, dtype=torch.bool)])
    last_of_tie = is_last.nonzero()[:, 0]
    found = positive[order].cumsum(0)[last_of_tie].double()
    precision = found / (last_of_tie + 1)
    best_from_here = precision.flip(0).cummax(0).values.flip(0)
    levels = torch.arange(1, 11, dtype=torch.float64, device=scores.device) / 10
    reached = torch.searchsorted(found / found[-1], levels)
    return (1 + best_from_here[reached].sum()) / 11


def roc_auc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve of two classes, by the score of the second; "roc_auc" in ELEVATER.

    It is the probability that a positive sample scores higher than a negative one; a tie counts half.

    Args:
        scores: Scores of both classes, (N, 2); the second column belongs to label 1, the first is not used.
        labels: Class indices, (N,), 0 or 1, both present.

    Returns:
        Value in 0..1.

    Raises:
        ValueError: A score is not finite, or all labels are equal.

    Source: Hanley and McNeil, Radiology 143 (1982); ELEVATER, Li et al., arXiv 2204.08790, whose toolkit calls
        scikit-learn as `RocAucEvaluator` does.
    """
    _require_finite(scores)
    is_positive = labels.to(scores.device).bool()
    positive = scores[is_positive, 1]
    negative = scores[~is_positive, 1].sort().values
    if not (len(positive) and len(negative)):
        raise ValueError(
            f"labels: all {len(labels)} are {int(is_positive[0])}, need both 0 and 1. Add samples of the other class."
        )
    below = torch.searchsorted(negative, positive)
    below_or_tied = torch.searchsorted(negative, positive, right=True)
    return int(below.sum() + below_or_tied.sum()) / (2 * len(positive) * len(negative))


def right_ranks(scores: Tensor, pairs: Tensor) -> Tensor:
    """For every query, the number of wrong candidates ranked before its best correct one.

    Recall at k is the share of queries with a rank below k: one correct candidate suffices, as is usual on Flickr30k,
    COCO and MUGE. (`RecallAtKEvaluator` of `vision-evaluation` computes the share of the correct candidates that are
    found instead.) A wrong candidate with the same score ranks before a correct one, so that a model with equal scores
    for all finds nothing.

    Args:
        scores: Scores of candidates, (Q, G), query by candidate.
        pairs: Correct (query, candidate) pairs, (P, 2) integers, in any order; at least one per query. With images as
            queries and several captions per image, these are (image, caption).

    Returns:
        (Q,) int64 in 0..G-1.

    Raises:
        ValueError: A score is not finite.

    Relations: text-to-image from image-to-text is `right_ranks(scores.T, pairs.flip(1))`.

    Source: Karpathy and Fei-Fei, CVPR 2015, section 4.1; Chinese-CLIP, Yang et al., arXiv 2211.01335.
    """
    _require_finite(scores)
    # a repeated pair counts once
    queries, candidates = pairs.to(scores.device).long().unique(dim=0).unbind(1)
    own = scores[queries, candidates]
    best = scores.new_zeros(len(scores)).scatter_reduce(0, queries, own, "amax", include_self=False)
    num_correct_as_high = queries[own == best[queries]].bincount(minlength=len(scores))
    return (scores >= best[:, None]).sum(1) - num_correct_as_high


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """95 % confidence interval of a share.

    Args:
        share: Observed share, in 0..1.
        count: Number of independent trials, at least 1.

    Returns:
        Lower and upper bound, in 0..1.

    Source: Wilson, JASA 22 (1927).
    """
    scale = 1 + Z * Z / count
    center = (share + Z * Z / (2 * count)) / scale
    deviation = math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    half = Z * deviation / scale
    # rounding can leave the share itself outside
    return min(share, max(0.0, center - half)), max(share, min(1.0, center + half))


def grouped_interval(hits: Tensor, groups: Tensor) -> tuple[float, float]:
    """95 % confidence interval of a share of trials that come in groups, such as the captions of an image.

    Trials of a group tend to succeed together, so they count by their effective sample size: the number of independent
    trials whose share has the variance that is observed between the groups.

    Args:
        hits: Whether each trial succeeded, (N,) bool.
        groups: Group of each trial, (N,) int64.

    Returns:
        Lower and upper bound, in 0..1.

    Source: Kish, Survey Sampling (1965), for the effective number; Wilson, JASA 22 (1927).
    """
    successes = groups.bincount(hits.double())
    sizes = groups.bincount().double()
    count = len(hits)
    share = float(successes.sum()) / count
    if share in (0.0, 1.0):  # nothing is known about the variance
        return wilson_interval(share, int((sizes > 0).sum()))
    variance = float((successes - share * sizes).square().sum()) / count**2  # variance of the share
    if variance == 0:
        return wilson_interval(share, count)
    return wilson_interval(share, min(count, share * (1 - share) / variance))


def _require_finite(scores: Tensor):
    if not torch.stack(scores.aminmax()).isfinite().all():  # aminmax propagates NaN
        row, column = (~scores.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"scores: row {row}, column {column} is {scores[row, column].item()}, need finite numbers. "
            "Look for a zero norm or an overflow in the embeddings, or compute the scores in float32."
        )
