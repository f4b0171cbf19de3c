"""What the metrics ask of their inputs."""

import torch
from torch import Tensor

PART = 2**20  # scores compared at a time: a few MiB of working memory, however large the matrix


def parts(scores: Tensor) -> tuple[Tensor, ...]:
    """Views of `scores` (N, C) of at most `PART` elements, or of one row."""
    return scores.split(rows_of_a_part(scores))


def rows_of_a_part(scores: Tensor) -> int:
    """How many rows of `scores` (N, C) one of its `parts` has; the last may have fewer."""
    return max(1, PART // scores.shape[1])


def check_scores(scores: Tensor) -> None:
    """Refuse anything but a matrix of finite numbers with at least one row and one column.

    Raises:
        ValueError: another shape, nothing in it, or a score that is NaN or infinite.
    """
    if scores.ndim != 2 or scores.numel() == 0:
        raise ValueError(
            f"scores: got shape {tuple(scores.shape)}, need (rows, columns) with at least one of each. "
            "Pass one row a sample."
        )
    if not all(torch.stack(part.aminmax()).isfinite().all() for part in parts(scores)):  # both pass NaN on
        row, column = (~scores.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"scores: row {row}, column {column} is {scores[row, column].item()}, need finite numbers. "
            "Look for a zero norm or an overflow where the embeddings are made, or score in float32."
        )


def check_labels(labels: Tensor, num_samples: int, num_classes: int) -> None:
    """Refuse anything but one class index a sample.

    Raises:
        ValueError: another shape, no whole numbers, or a label that is no class.
    """
    if labels.shape != (num_samples,):
        raise ValueError(
            f"labels: got shape {tuple(labels.shape)}, need ({num_samples},) as the scores have {num_samples} rows. "
            "Pass one class index a row."
        )
    if labels.is_floating_point():
        raise ValueError(f"labels: got {labels.dtype}, need whole numbers. Pass class indices, such as int64.")
    check_range("labels", labels, num_classes, "classes")


def check_range(name: str, ids: Tensor, count: int, what: str) -> None:
    """Refuse indices outside 0..count-1.

    Raises:
        ValueError: there is one, which is named.
    """
    wrong = ids[(ids < 0) | (ids >= count)]
    if wrong.numel():
        raise ValueError(
            f"{name}: {wrong[0].item()} is out of range 0..{count - 1}, as the scores have {count} {what}. "
            "Map names to the columns of the scores."
        )


def check_k(k: int, count: int, what: str) -> None:
    """Refuse anything but a whole number in 1..count.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(k, int) or not 1 <= k <= count:
        raise ValueError(
            f"k: {k} is no whole number in 1..{count}, as the scores have {count} {what}. Leave this k out."
        )
