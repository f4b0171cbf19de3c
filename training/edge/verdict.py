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
ALLOWED_POINTS = {"fp32": 0.0, "int8": 1.0}
TOLERANCE = {"int8": 0.0}  # largest slow-down against fp32, as a fraction
MIN_SAVED_SHARE = 0.1  # smallest fraction of fp32's bytes that a variant must save
MIN_COSINE = (
    0.999  # of every embedding in fp32: a runtime or a tool may round pixels and sums differently
)
TOP = 10  # images that a query of the retrieval finds


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
        largest_difference: Largest absolute difference between an embedding component and PyTorch's.
        mean_cosine: Mean cosine between the embeddings and PyTorch's.
        lowest_cosine: Lowest cosine between an embedding and PyTorch's.
        top1: Top-1 accuracy (0..1) on all labelled images, by language. PyTorch runs the tower that is not in the
            file.
        lost_points: Loss of top-1 against PyTorch in percentage points, by language. A gain is negative.
        images: Number of labelled images.
        worst_classes: Classes that lost the most images, by language.
        recall10: Recall at 10 (0..1) of text-to-image retrieval, by language: the queries are the names of all classes
            that have images, the candidates all labelled images.
        lost_recall_points: Loss of recall at 10 against PyTorch in percentage points, by language. A gain is negative.
        queries: Number of queries of the retrieval, in each language.
        ms: Median latency at batch 1 in milliseconds: an image, or a text (mean of both languages).
        ms_share: Median ratio of the latency to fp32's, measured in turns.
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
    lowest_cosine: float = 0.0
    top1: dict[str, float] = field(default_factory=dict)
    lost_points: dict[str, float] = field(default_factory=dict)
    images: int = 0
    worst_classes: dict[str, list[str]] = field(default_factory=dict)
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
        text += f", {self.ms:.2f} ms ({self.ms_share:.2f} of fp32)" if self.ms else ""
        text += f", cosine with PyTorch {self.mean_cosine:.5f}"
        if not self.checked:
            return f"{text}, accuracy unchecked"
        lost, lost_recall = (
            ", ".join(f"{language} {points:+.2f}" for language, points in losses.items())
            for losses in (self.lost_points, self.lost_recall_points)
        )
        return f"{text}, points lost: top-1 {lost}; recall at 10 {lost_recall}"


def reasons_against(verdict: Verdict) -> list[str]:
    """Reasons to refuse a file, a sentence each. The list is empty if the file passes."""
    subject = (
        f"The {verdict.variant} model"
        if verdict.tower == "both"
        else f"The {verdict.variant} {verdict.tower} tower"
    )
    reasons = []
    allowed = ALLOWED_POINTS.get(verdict.variant, 0.0)
    allowed_top1, allowed_recall = (  # one image or query of a small set is more than the points
        max(allowed, 100 / max(number, 1)) if allowed else 0.0
        for number in (verdict.images, verdict.queries)
    )
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
    if verdict.variant == "fp32" and not verdict.lowest_cosine >= MIN_COSINE:
        reasons.append(
            f"{subject} has an embedding whose cosine with PyTorch's is {verdict.lowest_cosine:.5f}; at least "
            f"{MIN_COSINE} is required."
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


def compare(
    tower: str, image_encoded: Encoded, text_encoded: Encoded, reference: Encoded, data: GateData
) -> dict[str, Any]:
    """Compare embeddings and predictions with PyTorch's, over the images of all sets together.

    Args:
        tower: The tower in the file, whose embeddings are compared: `vision`, `text` or `both`.
        image_encoded: Embeddings whose images are used.
        text_encoded: Embeddings whose class names are used.
        reference: Embeddings of PyTorch.
        data: The data of the gate.

    Returns:
        The fields of `Verdict` with differences and cosines, and if the images have labels, accuracy and losses.
    """
    pairs = []
    if tower != "text":
        pairs += [
            (image_encoded.images[name], expected) for name, expected in reference.images.items()
        ]
    if tower != "vision":
        pairs += [
            (text_encoded.classes[language], expected)
            for language, expected in reference.classes.items()
        ]
    embeddings, expected = (torch.cat(column) for column in zip(*pairs, strict=True))  # (N, D)
    cosines = (embeddings * expected).sum(1)
    fields: dict[str, Any] = {
        "largest_difference": (embeddings - expected).abs().max().item(),
        "mean_cosine": cosines.mean().item(),
        "lowest_cosine": cosines.min().item(),
    }
    if not data.is_checked or not cosines.isfinite().all():
        return fields
    labels = torch.cat([data.label_ids(name) for name in data.sets])
    classes, rows = labels.unique(return_inverse=True)
    # a query for each class with images: (class, image)
    queries = torch.stack([rows, torch.arange(len(labels))], 1)
    fields |= {"images": len(labels), "queries": len(classes)}
    totals = Counter(labels.tolist())
    names = ("top1", "lost_points", "worst_classes", "recall10", "lost_recall_points")
    for name in names:
        fields[name] = {}
    for language in data.languages:
        before = _scores(reference, reference, language)
        after = _scores(image_encoded, text_encoded, language)
        was_right, is_right = before.argmax(0) == labels, after.argmax(0) == labels  # (N,)
        was_found = right_ranks(before[classes], queries) < TOP
        is_found = right_ranks(after[classes], queries) < TOP
        worst = Counter(labels[was_right & ~is_right].tolist()).most_common(3)
        class_names = data.class_names.in_language(language)
        fields["top1"][language] = is_right.double().mean().item()
        fields["lost_points"][language] = _lost_points(was_right, is_right)
        fields["worst_classes"][language] = [
            f"{class_names[number]} ({lost} of {totals[number]})" for number, lost in worst
        ]
        fields["recall10"][language] = is_found.double().mean().item()
        fields["lost_recall_points"][language] = _lost_points(was_found, is_found)
    return fields


def _lost_points(before: Tensor, after: Tensor) -> float:
    return 100 * (before.sum() - after.sum()).item() / len(before)


def _scores(image_encoded: Encoded, text_encoded: Encoded, language: str) -> Tensor:
    """Cosines of all class names and all images, (C, N)."""
    return text_encoded.classes[language] @ torch.cat(list(image_encoded.images.values())).T
