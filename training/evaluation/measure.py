"""From scores to the rows of a result."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.evaluation.metrics import (
    eleven_point_map,
    mean_per_class_accuracy,
    roc_auc,
    top_k_accuracy,
    wilson_interval,
)

SHARES: tuple[str, ...] = ("top1", "top5")  # of images, so that an interval can be given
SCALE = 100.0  # ELEVATER's, whatever the model learnt


@dataclass(frozen=True)
class Measured:
    """What one model reached in one task.

    Args:
        values: share by metric.
        intervals: 95 % interval of those that are shares of images.
        answers: (N,) the class that each image got.
        per_class: (C,) recall, or average precision where images show several classes; NaN without an image.
        confusion: (C, C) images by own class and by answer; None where images show several classes.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    answers: Tensor
    per_class: Tensor
    confusion: Tensor | None


def measure(images: Tensor, classes: Tensor, labels: Tensor, metric: str) -> Measured:
    """Score images against classes.

    Ranks are taken from the similarities themselves: in their softmax the lower ones all become 0 and tie.

    Args:
        images: (N, D) L2-normalised.
        classes: (C, D) L2-normalised.
        labels: (N,) class numbers, or (N, C) with 1 where a class is in an image.
        metric: the one that has to be there.

    Raises:
        ValueError: a metric cannot be computed, such as ROC AUC where all labels are the same.

    Source: ELEVATER (arXiv 2204.08790): softmax over the classes of 100 times the similarity, also for VOC's several
        labels.
    """
    similarities = images @ classes.T  # (N, C)
    answers = similarities.argmax(1)
    num_classes = len(classes)
    targets = labels if labels.ndim == 2 else torch.nn.functional.one_hot(labels, num_classes).to(torch.int8)
    if labels.ndim == 2:
        # an image is right if the answer is one of its classes
        values = {"top1": targets.gather(1, answers[:, None]).double().mean().item()}
    else:
        values = {f"top{k}": top_k_accuracy(similarities, labels, k) for k in (1, 5) if k <= num_classes}
        values["mean_per_class"] = mean_per_class_accuracy(similarities, labels)
    chances = (SCALE * similarities).softmax(1)
    if metric == "11_point_map" or labels.ndim == 2:
        values["11_point_map"] = eleven_point_map(chances, targets)
    if metric == "roc_auc":
        values["roc_auc"] = roc_auc(chances, targets.argmax(1))
    intervals = {name: wilson_interval(values[name], len(labels)) for name in SHARES if name in values}
    if labels.ndim == 2:
        return Measured(values, intervals, answers, _average_precisions(chances, targets), None)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    confusion.index_put_((labels, answers), torch.ones_like(labels), accumulate=True)
    return Measured(values, intervals, answers, confusion.diag().double() / confusion.sum(1), confusion)


def _average_precisions(chances: Tensor, targets: Tensor) -> Tensor:
    """(C,) 11-point average precision of each class by itself."""
    precisions = [
        eleven_point_map(chances[:, [number]], targets[:, [number]]) if targets[:, number].any() else float("nan")
        for number in range(chances.shape[1])
    ]
    return torch.tensor(precisions, dtype=torch.float64)


def agreement(answers: Sequence[Tensor]) -> float:
    """Share of images that got the same class in all languages."""
    same = torch.stack([other == answers[0] for other in answers[1:]]).all(0)
    return same.double().mean().item()
