"""The verdict on an exported file: limits for the loss of accuracy in each language, for latency and for size."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from training.evaluation.metrics import right_ranks

# largest loss of top-1 accuracy and of recall at 10 in percentage points, for each language; number formats not listed
# may lose nothing
ALLOWED_POINTS = {"fp32": 0.0, "bfloat16": 1.0, "int8": 1.0}
TOLERANCE = {"int8": 0.0}  # largest slow-down against fp32, as a fraction
MIN_SAVED_SHARE = 0.1  # smallest fraction of fp32's bytes that a variant must save
# lowest cosine of an fp32 embedding with PyTorch's: a runtime or a tool may round pixels and sums differently
MIN_COSINE = 0.999
TOP = 10  # images that a query of the retrieval finds


@dataclass(frozen=True)
class Encoded:
    """Embeddings by a model or by a file.

    Args:
        images: Embeddings of the images, (N, D) float32, L2-normalized.
        classes: Embeddings of the class names by language, (C, D) float32, L2-normalized.
    """

    images: Tensor
    classes: dict[str, Tensor]

    def of(self, tower: str) -> Tensor:
        """Embeddings by one tower, `vision` or `text`, or by `both`, (n, D)."""
        parts = [] if tower == "text" else [self.images]
        if tower != "vision":
            parts += self.classes.values()
        return torch.cat(parts)


@dataclass(frozen=True)
class Verdict:
    """The verdict of the gate on one file, or on the folder of another tool. Numbers that were not measured are 0.

    Args:
        file: Path in the repo, such as `onnx/text_model_quantized.onnx`.
        tower: The tower in the file: `vision`, `text` or `both`.
        variant: Number format: fp32 or int8.
        kept: Whether the file is written to the output folder.
        reasons: Reasons why it is not written, a sentence each.
        bytes: Size of the file in bytes.
        bytes_share: Size as a fraction of fp32's.
        mean_cosine: Mean cosine between the embeddings and PyTorch's.
        lowest_cosine: Lowest cosine between an embedding and PyTorch's.
        top1: Top-1 accuracy (0..1) on all labeled images, by language. PyTorch runs the tower that is not in the file.
        lost_points: Loss of top-1 against PyTorch in percentage points, by language. A gain is negative.
        images: Number of labeled images.
        recall10: Recall at 10 (0..1) of text-to-image retrieval, by language: the queries are the names of all classes
            that have images, the candidates all labeled images.
        lost_recall_points: Loss of recall at 10 against PyTorch in percentage points, by language. A gain is negative.
        queries: Number of queries of the retrieval, in each language.
        ms: Median latency at batch 1 in milliseconds: an image, or a text (mean of both languages).
        ms_share: Median ratio of the latency to fp32's, measured in turns.
        checked: Whether accuracy was checked. Without labeled images, only embeddings, latency and size were.
    """

    file: str
    tower: str
    variant: str
    kept: bool
    reasons: list[str]
    bytes: int = 0
    bytes_share: float = 1.0
    mean_cosine: float = 0.0
    lowest_cosine: float = 0.0
    top1: dict[str, float] = field(default_factory=dict)
    lost_points: dict[str, float] = field(default_factory=dict)
    images: int = 0
    recall10: dict[str, float] = field(default_factory=dict)
    lost_recall_points: dict[str, float] = field(default_factory=dict)
    queries: int = 0
    ms: float = 0.0
    ms_share: float = 0.0
    checked: bool = True

    def line(self) -> str:
        """The verdict in one line, for the terminal."""
        if not self.kept:
            return f"{self.file}: not written. {' '.join(self.reasons)}"
        text = f"{self.file}: {self.bytes / 1e6:.2f} MB ({self.bytes_share:.2f} of fp32)"
        if self.ms:
            text += f", {self.ms:.2f} ms ({self.ms_share:.2f} of fp32)"
        text += f", cosine with PyTorch {self.mean_cosine:.5f}"
        if not self.checked:
            return f"{text}, accuracy unchecked"
        lost = _by_language(self.lost_points)
        lost_recall = _by_language(self.lost_recall_points)
        return f"{text}, points lost: top-1 {lost}; recall at 10 {lost_recall}"


def _by_language(points: dict[str, float]) -> str:
    return ", ".join(f"{language} {value:+.2f}" for language, value in points.items())


def reasons_against(verdict: Verdict) -> list[str]:
    """Reasons to refuse a file, a sentence each. The list is empty if the file passes."""
    allowed = ALLOWED_POINTS.get(verdict.variant, 0.0)
    reasons = []
    for name, losses, after, number in (
        ("top-1", verdict.lost_points, verdict.top1, verdict.images),
        ("recall at 10", verdict.lost_recall_points, verdict.recall10, verdict.queries),
    ):
        # one image or query of a small set is more than the points
        limit = max(allowed, 100 / max(number, 1)) if allowed else 0.0
        for language, points in losses.items():
            if points > limit + 1e-9:
                share = 100 * after[language]
                reasons.append(
                    f"loses {points:.2f} points of {name} in {language}, from {share + points:.2f} % to "
                    f"{share:.2f} % ({number:,} images or queries); {limit:.2f} are allowed."
                )
    if verdict.variant == "fp32":
        if not verdict.lowest_cosine >= MIN_COSINE:
            reasons.append(
                f"has an embedding whose cosine with PyTorch's is {verdict.lowest_cosine:.5f}; at least {MIN_COSINE} "
                "is required."
            )
    elif verdict.bytes_share > 1 - MIN_SAVED_SHARE:
        reasons.append(
            f"has {verdict.bytes_share:.2f} of the bytes of fp32, and {1 - MIN_SAVED_SHARE:.2f} is allowed."
        )
    allowed_ratio = 1 + TOLERANCE.get(verdict.variant, math.inf)
    if verdict.ms_share > allowed_ratio:
        reasons.append(
            f"takes {verdict.ms_share:.2f} times as long as fp32 ({verdict.ms:.2f} ms at batch 1), and "
            f"{allowed_ratio:.2f} is allowed."
        )
    tower = "model" if verdict.tower == "both" else f"{verdict.tower} tower"
    return [f"The {verdict.variant} {tower} {reason}" for reason in reasons]


def compare(
    tower: str, encoded: Encoded, reference: Encoded, labels: Tensor | None
) -> dict[str, Any]:
    """Compare embeddings and predictions with PyTorch's.

    Args:
        tower: The tower in the file, whose embeddings are compared: `vision`, `text` or `both`.
        encoded: Embeddings of the file, and of PyTorch for the tower that is not in it.
        reference: Embeddings of PyTorch.
        labels: Class indices of the images, (N,); None without labels.

    Returns:
        The fields of `Verdict` with cosines, and if the images have labels, accuracy and losses.
    """
    cosines = (encoded.of(tower) * reference.of(tower)).sum(1)
    fields: dict[str, Any] = {
        "mean_cosine": cosines.mean().item(),
        "lowest_cosine": cosines.min().item(),
    }
    if labels is None or not cosines.isfinite().all():
        return fields
    top1 = {}
    lost = {}
    recall = {}
    lost_recall = {}
    for language in reference.classes:
        top1_before, recall_before = _accuracy(reference, language, labels)
        top1[language], recall[language] = _accuracy(encoded, language, labels)
        lost[language] = 100 * (top1_before - top1[language])
        lost_recall[language] = 100 * (recall_before - recall[language])
    fields.update(images=len(labels), top1=top1, lost_points=lost)
    fields.update(queries=len(labels.unique()), recall10=recall, lost_recall_points=lost_recall)
    return fields


def _accuracy(encoded: Encoded, language: str, labels: Tensor) -> tuple[float, float]:
    """Top-1 accuracy and recall at 10 in one language, 0..1."""
    scores = encoded.classes[language] @ encoded.images.T  # (C, N)
    hits = scores.argmax(0) == labels
    classes, rows = labels.unique(return_inverse=True)
    # a query for each class with images: (class, image)
    queries = torch.stack([rows, torch.arange(len(labels))], 1)
    found = right_ranks(scores[classes], queries) < TOP
    return hits.double().mean().item(), found.double().mean().item()
