"""The verdict on an exported file: limits for the loss of accuracy in each language, for latency and for size."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from training.edge.gate_data import GateData
from training.evaluation.classify import Encoded
from training.evaluation.metrics import right_ranks

# largest loss of top-1 accuracy and of recall at 10 in percentage points, for each language; number formats not listed
# may lose nothing
ALLOWED_POINTS = {"fp32": 0.0, "fp16": 0.1, "int8": 1.0}
# largest slow-down against fp32, as a fraction: 0 for int8, which must be faster; for fp16, which must be
# smaller, the timing noise of two equal graphs
TOLERANCE = {"fp16": 0.05, "int8": 0.0}
MIN_SAVED_SHARE = 0.1  # smallest fraction of fp32's bytes that a variant must save
NUM_WORST = 3
TOP = 10  # images that a query of the retrieval finds


@dataclass(frozen=True)
class Verdict:
    """The verdict of the gate on one file. Its numbers are 0 if the file could not be run.

    Args:
        file: Path in the repo, such as `onnx/text_model_quantized.onnx`.
        tower: The tower in the file: `vision`, `text` or `both`.
        variant: Number format: fp32, fp16 or int8.
        kept: Whether the file is written to the output folder.
        reasons: Reasons why it is not written, a sentence each.
        bytes: Size of the file in bytes.
        bytes_share: Size as a fraction of fp32's.
        largest_difference: Largest absolute difference between an embedding component and PyTorch's.
        mean_cosine: Mean cosine between the embeddings and PyTorch's.
        top1: Top-1 accuracy (0..1) on all labelled images, by language. PyTorch runs the tower that is not in the
            file.
        lost_points: Loss of top-1 against PyTorch in percentage points, by language. A gain is negative.
        images: Number of labelled images.
        worst_classes: Classes that lost the most images, by language.
        recall10: Recall at 10 (0..1) of text-to-image retrieval, by language: the queries are the names of all classes
            that have images, the candidates all labelled images.
        lost_recall_points: Loss of recall at 10 against PyTorch in percentage points, by language. A gain is negative.
        queries: Number of queries of the retrieval, in each language.
        ms: Median latency at batch 1 in milliseconds: an image, a text (mean of both languages), or both.
        ms_share: Median ratio of the latency to fp32's, measured in turns.
        parts: Number format of each tower in a file of both towers; None for a file of one tower.
        checked: Whether accuracy was checked. Without labelled images, only embeddings, latency and size were.
    """

    file: str
    tower: str
    variant: str
    kept: bool
    reasons: list[str]
    bytes: int = 0
    bytes_share: float = 0.0
    largest_difference: float = 0.0
    mean_cosine: float = 0.0
    top1: dict[str, float] = field(default_factory=dict)
    lost_points: dict[str, float] = field(default_factory=dict)
    images: int = 0
    worst_classes: dict[str, list[str]] = field(default_factory=dict)
    recall10: dict[str, float] = field(default_factory=dict)
    lost_recall_points: dict[str, float] = field(default_factory=dict)
    queries: int = 0
    ms: float = 0.0
    ms_share: float = 0.0
    parts: dict[str, str] | None = None
    checked: bool = True

    def line(self) -> str:
        """The verdict in one line, for the terminal."""
        if not self.kept:
            return f"{self.file}: not written. {' '.join(self.reasons)}"
        size = f"{self.file}: {self.bytes / 1e6:.2f} MB ({self.bytes_share:.2f} of fp32), {self.ms:.2f} ms "
        size += f"({self.ms_share:.2f} of fp32), cosine with PyTorch {self.mean_cosine:.5f}"
        if not self.checked:
            return f"{size}, accuracy unchecked"
        lost, lost_recall = (
            ", ".join(f"{language} {points:+.2f}" for language, points in losses.items())
            for losses in (self.lost_points, self.lost_recall_points)
        )
        return f"{size}, points lost: top-1 {lost}; recall at 10 {lost_recall}"


def reasons_against(verdict: Verdict) -> list[str]:
    """Reasons to refuse a file, a sentence each. The list is empty if the file passes."""
    content = "graph of both towers" if verdict.tower == "both" else f"{verdict.tower} tower"
    subject = f"The {verdict.variant} {content}"
    reasons = []
    allowed_top1, allowed_recall = (_allowed_points(verdict, number) for number in (verdict.images, verdict.queries))
    for language, points in verdict.lost_points.items():
        if points > allowed_top1 + 1e-9:
            after = 100 * verdict.top1[language]
            reasons.append(
                f"{subject} loses {points:.2f} points of top-1 in {language}, from {after + points:.2f} % to "
                f"{after:.2f} % of {verdict.images:,} images; {allowed_top1:.2f} are allowed. "
                f"Most affected: {'; '.join(verdict.worst_classes[language])}."
            )
    for language, points in verdict.lost_recall_points.items():
        if points > allowed_recall + 1e-9:
            after = 100 * verdict.recall10[language]
            reasons.append(
                f"{subject} loses {points:.2f} points of recall at 10 in {language} (images of a class by its name), "
                f"from {after + points:.2f} % to {after:.2f} %; {allowed_recall:.2f} are allowed."
            )
    allowed_ratio = 1 + TOLERANCE.get(verdict.variant, math.inf)
    if verdict.ms_share > allowed_ratio:
        reasons.append(
            f"{subject} takes {verdict.ms_share:.2f} times as long as fp32 ({verdict.ms:.2f} ms at batch 1), and "
            f"{allowed_ratio:.2f} is allowed."
        )
    if verdict.variant != "fp32" and verdict.bytes_share > 1 - MIN_SAVED_SHARE:
        reasons.append(
            f"{subject} has {verdict.bytes_share:.2f} of the bytes of fp32, and {1 - MIN_SAVED_SHARE:.2f} is allowed."
        )
    return reasons


def _allowed_points(verdict: Verdict, number: int) -> float:
    """Largest loss in percentage points. A variant may lose one image or query, which is more in a small set."""
    points = ALLOWED_POINTS.get(verdict.variant, 0.0)
    return max(points, 100 / max(number, 1)) if points else 0.0


def closeness(tower: str, image_encoded: Encoded, text_encoded: Encoded, reference: Encoded) -> tuple[float, float]:
    """Compare embeddings with PyTorch's, over all images, all class names, or both.

    Args:
        tower: The tower in the file: `vision`, `text` or `both`.
        image_encoded: Embeddings whose images are compared.
        text_encoded: Embeddings whose class names are compared.
        reference: Embeddings of PyTorch.

    Returns:
        The largest absolute difference of a component, and the mean cosine.
    """
    pairs = []
    if tower != "text":
        pairs += [(image_encoded.images[name], expected) for name, expected in reference.images.items()]
    if tower != "vision":
        pairs += [(text_encoded.classes[language], expected) for language, expected in reference.classes.items()]
    embeddings, expected = (torch.cat(column) for column in zip(*pairs, strict=True))  # (N, D)
    return (embeddings - expected).abs().max().item(), (embeddings * expected).sum(1).mean().item()


def count_losses(image_encoded: Encoded, text_encoded: Encoded, reference: Encoded, data: GateData) -> dict[str, Any]:
    """Compare the predictions of a file with PyTorch's, over the images of all sets together.

    Args:
        image_encoded: Embeddings whose images are used.
        text_encoded: Embeddings whose class names are used.
        reference: Embeddings of PyTorch.
        data: The labelled sets.

    Returns:
        The fields of `Verdict` that hold accuracy and losses.
    """
    pairs = class_image_pairs(data)
    labels = pairs[:, 0]
    images, queries, totals = len(labels), len(labels.unique()), Counter(labels.tolist())
    top1, lost_points, worst_classes, recall10, lost_recall_points = {}, {}, {}, {}, {}
    for language in data.languages:
        expected, scores = _scores(reference, reference, language), _scores(image_encoded, text_encoded, language)
        before, after = expected.argmax(0) == labels, scores.argmax(0) == labels  # (N,)
        names = data.class_names.in_language(language)
        worst = Counter(labels[before & ~after].tolist()).most_common(NUM_WORST)
        top1[language] = after.sum().item() / images
        lost_points[language] = 100 * (before.sum() - after.sum()).item() / images
        worst_classes[language] = [f"{names[number]} ({lost} of {totals[number]})" for number, lost in worst]
        num_before, num_after = is_found(expected, pairs).sum().item(), is_found(scores, pairs).sum().item()
        recall10[language] = num_after / queries
        lost_recall_points[language] = 100 * (num_before - num_after) / queries
    return {
        "top1": top1,
        "lost_points": lost_points,
        "images": images,
        "worst_classes": worst_classes,
        "recall10": recall10,
        "lost_recall_points": lost_recall_points,
        "queries": queries,
    }


def _scores(image_encoded: Encoded, text_encoded: Encoded, language: str) -> Tensor:
    """Cosines of all class names and all images, (C, N)."""
    return text_encoded.classes[language] @ torch.cat(list(image_encoded.images.values())).T


def class_image_pairs(data: GateData) -> Tensor:
    """Pairs (class, image), (N, 2) int64: one for each image, over all sets in their order."""
    labels = torch.cat([data.label_ids(name) for name in data.sets])
    return torch.stack([labels, torch.arange(len(labels))], 1)


def is_found(scores: Tensor, pairs: Tensor) -> Tensor:
    """Whether one of the ten best images of a class name is of its class.

    Args:
        scores: Cosines of all class names and images, (C, N).
        pairs: Output of `class_image_pairs`.

    Returns:
        (Q,) bool, for the Q classes that have images, in order.
    """
    classes, rows = pairs[:, 0].unique(return_inverse=True)
    return right_ranks(scores[classes], torch.stack([rows, pairs[:, 1]], 1)) < TOP


def recall(scores: Tensor, pairs: Tensor) -> float:
    """Recall at 10 of text-to-image retrieval: the mean of `is_found`, in 0..1."""
    return is_found(scores, pairs).float().mean().item()


def same_top(scores: Tensor, expected: Tensor) -> float:
    """Share of the queries whose ten best candidates are the same, in any order.

    Args:
        scores: Scores of candidates, (Q, N).
        expected: Scores to compare with, (Q, N).

    Returns:
        Value in 0..1.
    """
    k = min(TOP, scores.shape[1])
    best = [each.topk(k, dim=1).indices.sort(dim=1).values for each in (scores, expected)]
    return (best[0] == best[1]).all(dim=1).float().mean().item()
