"""Image and class embeddings to metrics and rows: the one place where classification is scored.

The functions of `training.evaluation.metrics` compute the numbers, not their `evaluate` modules: a module first writes
all scores to a file on disk. For 10,000 images and 100 classes that took 15 times as long (3.4 s instead of 0.2 s, one
thread) and returned the same numbers; for 50,000 images and 1,000 classes 29 times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from training.evaluation.metrics import (
    eleven_point_map,
    mean_per_class_accuracy,
    roc_auc,
    top_k_accuracy,
    wilson_interval,
)
from training.utils.results import Row

TOP = "top"  # the metrics top1, top5 ... are shares of images, so that they have an interval
ELEVATER_SCALE = 100.0  # fixed by ELEVATER, whatever logit scale the model learned


class Named(Protocol):
    """Anything with the name of a model."""

    @property
    def name(self) -> str:
        """The name written to results."""


@dataclass(frozen=True)
class ClassDetails:
    """Results of each class.

    Args:
        per_class: Recall of each class, (C,) float64, or its average precision where images have several labels; NaN
            for a class without an image.
        confusion: Number of images by label and prediction, (C, C) int64; None where images have several labels.
    """

    per_class: Tensor
    confusion: Tensor | None


@dataclass(frozen=True)
class Measurement:
    """Metrics of one model on one set with one list of class names.

    Args:
        values: Value of each metric, in 0..1.
        intervals: 95 % interval of each metric that is a share of images.
        predictions: Most similar class of each image, (N,) int64.
        details: Results of each class; None unless `measure` computed them.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    predictions: Tensor
    details: ClassDetails | None = None

    def rows(self, **fields: Any) -> list[Row]:
        """One row per metric.

        Args:
            fields: All other fields of `Row`, such as `model`, `set` and `language`.
        """
        return [
            Row(metric=metric, value=value, interval=self.intervals.get(metric), **fields)
            for metric, value in self.values.items()
        ]


def measure(
    images: Tensor, classes: Tensor, labels: Tensor, metrics: Sequence[str], with_details: bool = False
) -> Measurement:
    """Score image embeddings against class embeddings.

    Top-k accuracy and mean per class rank the similarities themselves: in their softmax, low similarities underflow to
    0 and tie.

    Args:
        images: Image embeddings, (N, D), L2-normalised.
        classes: Class embeddings, (C, D), L2-normalised.
        labels: Class indices, (N,) int64, or one column per class, (N, C) int8, with 1 where the image has the label.
        metrics: Names of metrics: `top{k}`, `mean_per_class`, `11_point_map`, `roc_auc`. Top-k metrics with k greater
            than C are left out.
        with_details: Whether to compute the results of each class.

    Raises:
        ValueError: A metric is undefined for these labels, such as ROC AUC where all labels are equal.

    Source: ELEVATER (arXiv 2204.08790) computes 11-point mAP and ROC AUC from the softmax over classes of 100 times
        the similarity, also for the several labels per image of VOC 2007.
    """
    scores = _Scores(images @ classes.T, labels)  # (N, C)
    names = [name for name in metrics if not name.startswith(TOP) or int(name.removeprefix(TOP)) <= len(classes)]
    values = {name: scores.value(name) for name in names}
    intervals = {name: wilson_interval(value, len(labels)) for name, value in values.items() if name.startswith(TOP)}
    return Measurement(values, intervals, scores.predictions, scores.details() if with_details else None)


def task_metrics(labels: Tensor, metric: str) -> tuple[str, ...]:
    """The metrics that are reported for a set.

    Args:
        labels: Labels as `measure` takes them.
        metric: The metric of the protocol.

    Returns:
        Top-1, top-5 and mean per class, or top-1 and 11-point mAP where images have several labels; then the metric of
        the protocol, if it is defined for these labels.
    """
    several = labels.ndim == 2
    names = ("top1", "11_point_map") if several else ("top1", "top5", "mean_per_class")
    return names if metric in (*names, "mean_per_class") else (*names, metric)


class _Scores:
    """Similarities and what the metrics derive from them, each computed once.

    Args:
        similarities: Similarity of image and class, (N, C).
        labels: Labels as `measure` takes them.
    """

    def __init__(self, similarities: Tensor, labels: Tensor):
        self.similarities, self.labels = similarities, labels
        self.several_labels = labels.ndim == 2

    @cached_property
    def predictions(self) -> Tensor:
        """Most similar class of each image, (N,) int64."""
        return self.similarities.argmax(1)

    @cached_property
    def probabilities(self) -> Tensor:
        """Softmax over the classes at ELEVATER's scale, (N, C)."""
        return (ELEVATER_SCALE * self.similarities).softmax(1)

    @cached_property
    def targets(self) -> Tensor:
        """Labels as one column per class, (N, C) int8."""
        if self.several_labels:
            return self.labels
        return torch.nn.functional.one_hot(self.labels, self.similarities.shape[1]).to(torch.int8)

    def value(self, metric: str) -> float:
        """Compute one metric by name."""
        if metric == "mean_per_class":
            return mean_per_class_accuracy(self.similarities, self.labels)
        if metric == "11_point_map":
            return eleven_point_map(self.probabilities, self.targets)
        if metric == "roc_auc":
            return roc_auc(self.probabilities, self.targets.argmax(1))
        if self.several_labels and metric == "top1":  # correct if the prediction is one of the labels
            return self.targets.gather(1, self.predictions[:, None]).double().mean().item()
        return top_k_accuracy(self.similarities, self.labels, int(metric.removeprefix(TOP)))

    def details(self) -> ClassDetails:
        """Results of each class."""
        if self.several_labels:
            return ClassDetails(self._average_precisions(), None)
        num_classes = self.similarities.shape[1]
        confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        confusion.index_put_((self.labels, self.predictions), torch.ones_like(self.labels), accumulate=True)
        return ClassDetails(confusion.diag().double() / confusion.sum(1), confusion)

    def _average_precisions(self) -> Tensor:
        """11-point average precision of each class, (C,) float64."""
        columns = zip(self.probabilities.split(1, 1), self.targets.split(1, 1), strict=True)  # (N, 1) each
        return torch.tensor(
            [eleven_point_map(scores, target) if target.any() else float("nan") for scores, target in columns],
            dtype=torch.float64,
        )


def agreement(predictions: Sequence[Tensor]) -> float:
    """Share of images with the same prediction in all languages.

    Args:
        predictions: Class indices of the same images, (N,) int64, one tensor per language.
    """
    same = torch.stack([other == predictions[0] for other in predictions[1:]]).all(0)
    return same.double().mean().item()


def joint_name(images: Named, texts: Named) -> str:
    """The model name of a row.

    Args:
        images: Model that encoded the images.
        texts: Model that encoded the texts.

    Returns:
        The name of the model, or both names if two models were combined.
    """
    return images.name if texts is images else f"{images.name} images, {texts.name} texts"


def require_equal_widths(images: Named, image_embeddings: Tensor, texts: Named, text_embeddings: Tensor):
    """Check that the embeddings of two models can be compared.

    Args:
        images: Model that encoded the images.
        image_embeddings: Embeddings of the images, (N, D).
        texts: Model that encoded the texts.
        text_embeddings: Embeddings of the texts, (T, D).

    Raises:
        ValueError: The embeddings differ in width.
    """
    image_dim, text_dim = image_embeddings.shape[1], text_embeddings.shape[1]
    if image_dim != text_dim:
        raise ValueError(
            f"text_model: {texts.name!r} has embeddings of {text_dim} dimensions, {images.name!r} of {image_dim}: "
            "they cannot be compared. Name a model with the same embedding space, such as its teacher."
        )
