"""Weights between the starting model and the end of training, and the choice of a point between them.

Source: WiSE-FT (Wortsman et al., arXiv 2109.01903).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

WEIGHTS = tuple(number / 10 for number in range(11))  # of the end of training
TOLERANCE = 1e-9  # of a comparison of shares


@dataclass(frozen=True)
class Point:
    """Accuracy of one interpolation.

    Args:
        weight: Weight of the end of training, 0..1; 0 is the starting model.
        validation: Mean accuracy on the validation split, 0..1.
        general: Mean accuracy on each set of what should be kept, 0..1, by its name.
    """

    weight: float
    validation: float
    general: Mapping[str, float]


def interpolate(start: Mapping[str, Tensor], end: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Interpolate the weights of two models. Tensors of integers are those of the end.

    Args:
        start: Weights of the starting model by name.
        end: Weights at the end of training by the same names.
        weight: Weight of the end, 0..1.
    """
    return {
        name: start[name].lerp(tensor, weight) if tensor.is_floating_point() else tensor
        for name, tensor in end.items()
    }


def choose(points: Sequence[Point], max_loss: float) -> Point:
    """The point that is best on the validation split among those that keep the accuracy on all general sets.

    Of equally good points, the one nearest to the starting model is chosen.

    Args:
        points: Points in ascending order of their weight, the starting model first.
        max_loss: Largest loss of accuracy on a general set, as a fraction.
    """
    start = points[0].general
    kept = [
        point
        for point in points
        if all(point.general[name] >= value - max_loss - TOLERANCE for name, value in start.items())
    ]
    return max(kept, key=lambda point: (point.validation, -point.weight))


def is_clearly_better(accuracy: float, other: float, number: int) -> bool:
    """Whether an accuracy is higher than another one by more than its standard error.

    Args:
        accuracy: Accuracy on a validation split, 0..1.
        other: Another accuracy on it, 0..1.
        number: Number of images of the split.
    """
    return accuracy - other > math.sqrt(accuracy * (1 - accuracy) / number)
