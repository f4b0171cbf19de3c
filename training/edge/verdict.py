"""What a variant may lose against PyTorch, in English and in Chinese each, and how that is counted."""

import math
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.edge.labelled import Labelled
from training.evaluation.classify import Encoded
from training.text.writing_systems import LANGUAGES

# points of top-1 that may be lost, in each language
ALLOWED_POINTS = {"fp32": 0.0, "fp16": 0.1, "int8": 1.0, "q4": 1.0}
# share by which a variant may take longer than fp32: one that is there for its speed none, one that is there for its
# bytes as much as two equal graphs differ by in timing
TOLERANCE = {"fp16": 0.05, "int8": 0.0, "q4": 0.05}
LEAST_SAVED = 0.1  # share of fp32's bytes; with less a file is not worth its place
NUM_WORST = 3


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one file. Its numbers are 0 where it could not be asked.

    Args:
        file: such as `onnx/text_model_quantized.onnx`.
        tower: `vision`, `text` or `both`.
        variant: number format: fp32, fp16, int8 or q4.
        kept: whether it is written.
        reasons: why not.
        bytes: of the file.
        bytes_share: of those of fp32.
        largest_difference: of any number of any embedding, against PyTorch.
        mean_cosine: with PyTorch's embeddings.
        top1: share of all labelled images by language, the other tower being PyTorch's where it is not in the file.
        lost_points: by which that is less than PyTorch's, in percentage points; a gain is negative.
        worst_classes: by language, those that lost most images.
        ms: median at batch 1: an image, a text (mean of both languages), or both.
        ms_share: median of the ratios to fp32, run in turns.
        parts: of a file of both towers, the variant of each.
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
    worst_classes: dict[str, list[str]] = field(default_factory=dict)
    ms: float = 0.0
    ms_share: float = 0.0
    parts: dict[str, str] | None = None

    def line(self) -> str:
        """For people."""
        if not self.kept:
            return f"{self.file}: not written. {' '.join(self.reasons)}"
        lost = ", ".join(f"{language} {points:+.2f}" for language, points in self.lost_points.items())
        return (
            f"{self.file}: {self.bytes / 1e6:.2f} MB ({self.bytes_share:.2f} of fp32), {self.ms:.2f} ms "
            f"({self.ms_share:.2f} of fp32), cosine with PyTorch {self.mean_cosine:.5f}, points of top-1 lost: {lost}"
        )


def reasons_against(verdict: Verdict) -> list[str]:
    """Why a variant fails, a sentence each; none where it passes.

    Args:
        verdict: with its numbers.
    """
    graph = "graph of both towers" if verdict.tower == "both" else f"{verdict.tower} tower"
    what = f"The {verdict.variant} {graph}"
    reasons = []
    for language, points in verdict.lost_points.items():
        allowed = ALLOWED_POINTS[verdict.variant]
        if points > allowed + 1e-9:
            after = 100 * verdict.top1[language]
            reasons.append(
                f"{what} loses {points:.2f} points of top-1 in {language} ({after + points:.2f} % to {after:.2f} %), "
                f"where {allowed} are allowed; the most in {'; '.join(verdict.worst_classes[language])}."
            )
    allowed = 1 + TOLERANCE.get(verdict.variant, math.inf)
    if verdict.ms_share > allowed:
        reasons.append(
            f"{what} takes {verdict.ms_share:.2f} times as long as fp32 ({verdict.ms:.2f} ms at batch 1, medians of "
            f"runs in turns), where {allowed:.2f} is allowed."
        )
    if verdict.variant != "fp32" and verdict.bytes_share > 1 - LEAST_SAVED:
        reasons.append(f"{what} has {verdict.bytes_share:.2f} of the bytes of fp32: it saves nothing.")
    return reasons


def closeness(tower: str, seen: Encoded, read: Encoded, reference: Encoded) -> tuple[float, float]:
    """Largest difference and mean cosine, over all images, all captions, or both.

    Args:
        tower: `vision`, `text` or `both`.
        seen: whose images are asked about.
        read: whose captions are asked about.
        reference: PyTorch's.
    """
    pairs = []
    if tower != "text":
        pairs += [(seen.images[name], theirs) for name, theirs in reference.images.items()]
    if tower != "vision":
        pairs += [(read.classes[language], theirs) for language, theirs in reference.classes.items()]
    ours, theirs = (torch.cat(column) for column in zip(*pairs, strict=True))  # (N, D)
    return (ours - theirs).abs().max().item(), (ours * theirs).sum(1).mean().item()


@dataclass(frozen=True)
class Losses:
    """Fields of [`Verdict`]: top-1, lost points and worst classes by language, over the images of all sets together.

    Args:
        top1: see there.
        lost_points: see there.
        worst_classes: see there.
    """

    top1: dict[str, float]
    lost_points: dict[str, float]
    worst_classes: dict[str, list[str]]


def count_losses(seen: Encoded, read: Encoded, reference: Encoded, labelled: Labelled) -> Losses:
    """Compare a variant's answers with PyTorch's.

    Args:
        seen: whose image embeddings are asked.
        read: whose class embeddings are asked.
        reference: PyTorch's of both.
        labelled: the true answers.
    """
    losses = Losses({}, {}, {})
    labels = torch.cat([labelled.label_ids(name) for name in labelled.sets])  # (N,)
    totals = Counter(labels.tolist())
    for language in LANGUAGES:
        before = _right(reference, reference, labels, language)
        after = _right(seen, read, labels, language)
        names = labelled.class_names.in_language(language)
        worst = Counter(labels[before & ~after].tolist()).most_common(NUM_WORST)
        losses.top1[language] = after.sum().item() / len(labels)
        losses.lost_points[language] = 100 * (before.sum() - after.sum()).item() / len(labels)
        losses.worst_classes[language] = [f"{names[number]} ({lost} of {totals[number]})" for number, lost in worst]
    return losses


def _right(seen: Encoded, read: Encoded, labels: Tensor, language: str) -> Tensor:
    """(N,) bool: whether an image's own class comes first."""
    answers = [(images @ read.classes[language].T).argmax(1) for images in seen.images.values()]
    return torch.cat(answers) == labels
