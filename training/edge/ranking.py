"""Rankings that the gate compares: the queries are the class names, the candidates all images."""

import torch
from torch import Tensor

from training.edge.gate_data import GateData
from training.evaluation.metrics import right_ranks

TOP = 10


def class_image_pairs(data: GateData) -> Tensor:
    """The images of each class, over all sets in their order.

    Args:
        data: The labelled sets.

    Returns:
        Pairs (class, image), (N, 2) int64: one for each image.
    """
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
