import pytest
import torch

from training.finetuning.interpolate import Point, choose, interpolate, is_clearly_better


def test_weights_are_interpolated_and_counts_are_not():
    start = {"a": torch.tensor([0.0, 2.0]), "count": torch.tensor(3)}
    end = {"a": torch.tensor([1.0, 4.0]), "count": torch.tensor(7)}
    half = interpolate(start, end, 0.25)
    torch.testing.assert_close(half["a"], torch.tensor([0.25, 2.5]))
    assert half["count"] == 7
    assert torch.equal(interpolate(start, end, 0.0)["a"], start["a"])
    assert torch.equal(interpolate(start, end, 1.0)["a"], end["a"])


@pytest.mark.parametrize(
    ("validation", "general", "weight"),
    [
        ((0.2, 0.4, 0.6), (0.9, 0.9, 0.9), 1.0),  # nothing is forgotten
        ((0.2, 0.4, 0.6), (0.90, 0.89, 0.85), 0.5),  # the end forgets more than a point
        ((0.2, 0.4, 0.4), (0.9, 0.9, 0.9), 0.5),  # of equally good points, the one nearest to the start
        ((0.5, 0.4, 0.6), (0.9, 0.95, 0.88), 0.0),
    ],
)
def test_the_best_point_that_keeps_general_accuracy_is_chosen(validation, general, weight):
    points = [
        Point(place, value, {"texts": kept})
        for place, value, kept in zip((0, 0.5, 1), validation, general, strict=True)
    ]
    assert choose(points, 0.01).weight == weight


def test_every_general_set_is_kept():
    kept = [{"texts": 0.9, "images": 0.5}, {"texts": 0.9, "images": 0.495}, {"texts": 0.95, "images": 0.48}]
    points = [Point(weight, weight, each) for weight, each in zip((0, 0.5, 1), kept, strict=True)]
    assert choose(points, 0.01).weight == 0.5


def test_a_lead_within_the_standard_error_is_not_clear():
    # the standard error of 0.5 on 100 images is 0.05
    assert is_clearly_better(0.5, 0.44, 100) and not is_clearly_better(0.5, 0.46, 100)
    assert is_clearly_better(0.5, 0.46, 400) and not is_clearly_better(0.4, 0.4, 400)
