"""The four metrics of ELEVATER, equal to those of its toolkit, which come from the package `vision-evaluation`.

A tie is two equal scores. Everything is exact in the precision of the scores, half precision included.
"""

import torch
from torch import Tensor

from training.evaluation.metrics.inputs import check_k, check_labels, check_scores, parts, rows_of_a_part


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Share of samples whose label is among the k highest scores; "accuracy" in ELEVATER, with k = 1.

    Of tied classes the one with the lower index ranks first. At k = 1 the toolkit does the same; at a higher k it
    picks any of those tied for the last place.

    Args:
        scores: (N, C).
        labels: (N,) whole numbers in 0..C-1.
        k: 1..C.

    Returns:
        In 0..1.

    Raises:
        ValueError: no sample, shapes that do not match, a score that is not finite, a label or k out of range.

    Source: ELEVATER, Li et al., arXiv 2204.08790; `TopKAccuracyEvaluator`.
    """
    check_scores(scores)
    num_samples, num_classes = scores.shape
    check_labels(labels, num_samples, num_classes)
    check_k(k, num_classes, "classes")
    labels = labels.to(scores.device).long()
    columns = torch.arange(num_classes, device=scores.device)
    right = 0
    for part, own in zip(parts(scores), labels.split(rows_of_a_part(scores)), strict=True):
        label_scores = part.gather(1, own[:, None])  # (n, 1)
        ahead = (part > label_scores).sum(1)
        ahead += ((part == label_scores) & (columns < own[:, None])).sum(1)
        right += int((ahead < k).sum())
    return right / num_samples


def mean_per_class_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Mean over classes of the share of a class's samples that are recognised; "mean-per-class" in ELEVATER.

    A class without a sample takes no part: it is neither in the mean, nor can it be predicted. So does the toolkit;
    on a subset of a test the figure is therefore that of the smaller choice. Of tied classes the one with the lower
    index is predicted.

    Args:
        scores: (N, C).
        labels: (N,) whole numbers in 0..C-1.

    Returns:
        In 0..1.

    Raises:
        ValueError: no sample, shapes that do not match, a score that is not finite, or a label out of range.

    Relations: `top_k_accuracy` weighs a class by its samples; this weighs all alike. Also known as balanced accuracy.

    Source: ELEVATER, Li et al., arXiv 2204.08790; `BalancedAccuracyScoreEvaluator`.
    """
    check_scores(scores)
    num_samples, num_classes = scores.shape
    check_labels(labels, num_samples, num_classes)
    present, labels, counts = labels.to(scores.device).unique(return_inverse=True, return_counts=True)
    present = present.long()
    predicted = torch.cat([part[:, present].argmax(1) for part in parts(scores)])  # the first of several maxima
    hits = labels[predicted == labels].bincount(minlength=len(present))
    return (hits.double() / counts).mean().item()


def eleven_point_map(scores: Tensor, targets: Tensor) -> float:
    """Mean over classes of 11-point interpolated average precision, for several labels a sample; "11point_mAP".

    For one class, samples are sorted by its score; tied samples enter together. The precision at recall r is the
    highest precision at any recall of at least r, and the average is over r = 0, 0.1 ... 1. At r = 0 the precision
    counts as 1, as in the toolkit, whose curve ends there; by the VOC devkit it would be the highest of the curve,
    which is up to 1/11 less. A class without a right sample is left out of the mean.

    Args:
        scores: (N, C).
        targets: (N, C), 1 where a class is in a sample, else 0; several a row, or none. Any dtype.

    Returns:
        In 1/11..1.

    Raises:
        ValueError: no sample, shapes that do not match, a score that is not finite, a target other than 0 and 1,
            or no 1 at all (for which the toolkit reports 0).

    Source: VOC 2007, Everingham et al., IJCV 88 (2010), section 4.2; ELEVATER, Li et al., arXiv 2204.08790;
        `MeanAveragePrecisionNPointsEvaluator`.
    """
    check_scores(scores)
    if targets.shape != scores.shape:
        raise ValueError(
            f"targets: got shape {tuple(targets.shape)}, need that of the scores, {tuple(scores.shape)}. "
            "Pass one column a class, 1 where the class is in the sample."
        )
    for part in parts(targets):
        wrong = part[(part != 0) & (part != 1)]
        if wrong.numel():
            raise ValueError(f"targets: got {wrong[0].item()}, need 0 or 1. Decide what counts as right beforehand.")
    precisions = [
        _average_precision(column, target.to(scores.device).bool())
        for column, target in zip(scores.unbind(1), targets.unbind(1), strict=True)
        if target.any()
    ]
    if not precisions:
        raise ValueError("targets: no class is in any sample, so there is no precision. Check the labels' column.")
    return torch.stack(precisions).mean().item()


def _average_precision(scores: Tensor, right: Tensor) -> Tensor:
    """11-point average precision of one class, scalar float64; `scores` (N,), `right` (N,) bool with a True."""
    scores, order = scores.sort(descending=True)
    last_of_tie = torch.cat([scores[1:] != scores[:-1], scores.new_ones(1, dtype=torch.bool)]).nonzero()[:, 0]
    found = right[order].cumsum(0)[last_of_tie].double()
    precision = found / (last_of_tie + 1)
    best_from_here = precision.flip(0).cummax(0).values.flip(0)
    levels = torch.arange(1, 11, dtype=torch.float64, device=scores.device) / 10
    reached = torch.searchsorted(found / found[-1], levels)
    return (1 + best_from_here[reached].sum()) / 11


def roc_auc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve of a yes-or-no question, by the second column; "roc_auc" in ELEVATER.

    It is the chance that a positive sample scores higher than a negative one, where a tie counts half.

    Args:
        scores: (N, 2); the second column belongs to label 1, and the first is not read.
        labels: (N,), 0 or 1, both present.

    Returns:
        In 0..1.

    Raises:
        ValueError: no sample, not two columns, shapes that do not match, a score that is not finite, a label out of
            range, or labels of one class only.

    Source: Hanley and McNeil, Radiology 143 (1982); ELEVATER, Li et al., arXiv 2204.08790, whose toolkit calls
        scikit-learn as `RocAucEvaluator` does.
    """
    check_scores(scores)
    if scores.shape[1] != 2:
        raise ValueError(
            f"scores: got {scores.shape[1]} columns, need 2. Pass the score of label 0 first, that of label 1 second."
        )
    check_labels(labels, len(scores), 2)
    yes = labels.to(scores.device).bool()
    positive, negative = scores[yes, 1], scores[~yes, 1].sort().values
    if not (len(positive) and len(negative)):
        raise ValueError(f"labels: all {len(labels)} are {int(yes[0])}, need both 0 and 1. Add samples of the other.")
    below = torch.searchsorted(negative, positive).sum() + torch.searchsorted(negative, positive, right=True).sum()
    return int(below) / (2 * len(positive) * len(negative))
