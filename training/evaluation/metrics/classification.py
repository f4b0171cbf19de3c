"""The four metrics of ELEVATER, equal to those of its toolkit, which uses the package `vision-evaluation`.

A tie is two equal scores. Scores are compared in their own precision, half precision included.
"""

import torch
from torch import Tensor

from training.evaluation.metrics.checks import check_k, check_labels, check_scores, chunks, rows_per_chunk


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Share of samples whose label is among the k highest scores; with k = 1, "accuracy" in ELEVATER.

    Among tied classes, the one with the lower index ranks first. The toolkit does the same at k = 1; at a higher k it
    picks an arbitrary one of those tied for the last rank.

    Args:
        scores: Scores of all classes, (N, C).
        labels: Class indices in 0..C-1, (N,), of any integer dtype.
        k: Number of highest scores, in 1..C.

    Returns:
        Value in 0..1.

    Raises:
        ValueError: There is no sample, shapes do not match, a score is not finite, or a label or k is out of range.

    Source: ELEVATER, Li et al., arXiv 2204.08790; `TopKAccuracyEvaluator`.
    """
    check_scores(scores)
    num_samples, num_classes = scores.shape
    check_labels(labels, num_samples, num_classes)
    check_k(k, num_classes, "classes")
    labels = labels.to(scores.device).long()
    columns = torch.arange(num_classes, device=scores.device)
    num_correct = 0
    for part, own in zip(chunks(scores), labels.split(rows_per_chunk(scores)), strict=True):
        label_scores = part.gather(1, own[:, None])  # (n, 1)
        ahead = (part > label_scores).sum(1)
        ahead += ((part == label_scores) & (columns < own[:, None])).sum(1)
        num_correct += int((ahead < k).sum())
    return num_correct / num_samples


def mean_per_class_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Mean over classes of the recall of each class; "mean-per-class" in ELEVATER.

    A class without samples is ignored, as in the toolkit: it is neither in the mean, nor can it be predicted. On a
    subset of a test, there are therefore fewer classes to choose from. Among tied classes, the one with the lower
    index is predicted.

    Args:
        scores: Scores of all classes, (N, C).
        labels: Class indices in 0..C-1, (N,), of any integer dtype.

    Returns:
        Value in 0..1.

    Raises:
        ValueError: There is no sample, shapes do not match, a score is not finite, or a label is out of range.

    Relations: `top_k_accuracy` weights a class by its samples, this metric weights all classes equally. It is also
        known as balanced accuracy.

    Source: ELEVATER, Li et al., arXiv 2204.08790; `BalancedAccuracyScoreEvaluator`.
    """
    check_scores(scores)
    num_samples, num_classes = scores.shape
    check_labels(labels, num_samples, num_classes)
    present, labels, counts = labels.to(scores.device).long().unique(return_inverse=True, return_counts=True)
    predicted = torch.cat([part[:, present].argmax(1) for part in chunks(scores)])  # the first of several maxima
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
        ValueError: There is no sample, shapes do not match, a score is not finite, a target is neither 0 nor 1, or no
            target is 1 (for which the toolkit reports 0).

    Source: VOC 2007, Everingham et al., IJCV 88 (2010), section 4.2; ELEVATER, Li et al., arXiv 2204.08790;
        `MeanAveragePrecisionNPointsEvaluator`.
    """
    check_scores(scores)
    if targets.shape != scores.shape:
        raise ValueError(
            f"targets: got shape {tuple(targets.shape)}, need that of the scores, {tuple(scores.shape)}. "
            "Pass one column per class, 1 where the sample has the label."
        )
    for part in chunks(targets):
        wrong = part[(part != 0) & (part != 1)]
        if wrong.numel():
            raise ValueError(f"targets: got {wrong[0].item()}, need 0 or 1. Threshold other values first.")
    precisions = [
        _average_precision(column, target.to(scores.device).bool())
        for column, target in zip(scores.unbind(1), targets.unbind(1), strict=True)
        if target.any()
    ]
    if not precisions:
        raise ValueError("targets: no sample has a label, so precision is undefined. Check the column of labels.")
    return torch.stack(precisions).mean().item()


def _average_precision(scores: Tensor, positive: Tensor) -> Tensor:
    """11-point average precision of one class, scalar float64.

    Args:
        scores: Scores of the class, (N,).
        positive: Whether each sample has the label, (N,) bool; at least one does.
    """
    scores, order = scores.sort(descending=True)
    last_of_tie = torch.cat([scores[1:] != scores[:-1], scores.new_ones(1, dtype=torch.bool)]).nonzero()[:, 0]
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
        ValueError: There is no sample, there are not two columns, shapes do not match, a score is not finite, a label
            is out of range, or all labels are equal.

    Source: Hanley and McNeil, Radiology 143 (1982); ELEVATER, Li et al., arXiv 2204.08790, whose toolkit calls
        scikit-learn as `RocAucEvaluator` does.
    """
    check_scores(scores)
    if scores.shape[1] != 2:
        raise ValueError(
            f"scores: got {scores.shape[1]} columns, need 2. Pass the score of label 0 first, then that of label 1."
        )
    check_labels(labels, len(scores), 2)
    is_positive = labels.to(scores.device).bool()
    positive, negative = scores[is_positive, 1], scores[~is_positive, 1].sort().values
    if not (len(positive) and len(negative)):
        raise ValueError(
            f"labels: all {len(labels)} are {int(is_positive[0])}, need both 0 and 1. Add samples of the other class."
        )
    below = torch.searchsorted(negative, positive).sum() + torch.searchsorted(negative, positive, right=True).sum()
    return int(below) / (2 * len(positive) * len(negative))
