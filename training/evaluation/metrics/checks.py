"""Checks of the inputs of metrics, and the chunks in which they compare scores."""

from numbers import Integral

import torch
from torch import Tensor

CHUNK_SIZE = 2**20  # scores compared at a time, which bounds the working memory to a few MiB


def chunks(scores: Tensor) -> tuple[Tensor, ...]:
    """Views of `scores`, (N, C), of at most `CHUNK_SIZE` elements or of one row."""
    return scores.split(rows_per_chunk(scores))


def rows_per_chunk(scores: Tensor) -> int:
    """Number of rows in each of the `chunks` of `scores`, (N, C); the last may have fewer."""
    return max(1, CHUNK_SIZE // scores.shape[1])


def check_scores(scores: Tensor) -> None:
    """Check that scores are a matrix of finite numbers with at least one row and one column.

    Raises:
        ValueError: The shape is another, the matrix is empty, or a score is NaN or infinite.
    """
    if scores.ndim != 2 or scores.numel() == 0:
        raise ValueError(
            f"scores: got shape {tuple(scores.shape)}, need (rows, columns) with at least one of each. "
            "Pass one row per sample."
        )
    if not all(torch.stack(part.aminmax()).isfinite().all() for part in chunks(scores)):  # aminmax propagates NaN
        row, column = (~scores.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"scores: row {row}, column {column} is {scores[row, column].item()}, need finite numbers. "
            "Look for a zero norm or an overflow in the embeddings, or compute the scores in float32."
        )


def check_labels(labels: Tensor, num_samples: int, num_classes: int) -> None:
    """Check that labels are one class index per sample.

    Args:
        labels: Labels to check.
        num_samples: Number of samples.
        num_classes: Number of classes.

    Raises:
        ValueError: The shape is another, the labels are not integers, or one is not a class index.
    """
    if labels.shape != (num_samples,):
        raise ValueError(
            f"labels: got shape {tuple(labels.shape)}, need ({num_samples},) as the scores have {num_samples} rows. "
            "Pass one class index per row."
        )
    if labels.is_floating_point():
        raise ValueError(f"labels: got {labels.dtype}, need integers. Pass class indices, such as int64.")
    check_range("labels", labels, num_classes, "classes")


def check_range(name: str, ids: Tensor, count: int, what: str) -> None:
    """Check that all indices are in 0..count-1.

    Args:
        name: Name of the argument, for the error message.
        ids: Indices to check.
        count: Number of valid indices.
        what: What the indices count, for the error message.

    Raises:
        ValueError: An index is out of range.
    """
    ids = ids.long()  # PyTorch compares no unsigned integers above 8 bits
    wrong = ids[(ids < 0) | (ids >= count)]
    if wrong.numel():
        raise ValueError(
            f"{name}: {wrong[0].item()} is out of range 0..{count - 1}, as the scores have {count} {what}. "
            "Map names to the columns of the scores."
        )


def check_k(k: int, count: int, what: str) -> None:
    """Check that k is an integer in 1..count.

    Args:
        k: Value to check.
        count: Number of columns of the scores.
        what: What the columns are, for the error message.

    Raises:
        ValueError: It is not an integer, or out of range.
    """
    if not isinstance(k, Integral) or not 1 <= k <= count:
        raise ValueError(
            f"k: {k} is not an integer in 1..{count}, as the scores have {count} {what}. Leave this k out."
        )
