"""Interpolation, the choice of a point, and what the report says about losses."""

import pytest
import torch

from training.finetuning.finish import Outcome, Point, choose, interpolate
from training.finetuning.measure import kept_values
from training.utils.results import Row


def test_weights_are_interpolated_and_counts_are_not():
    start = {
        "weight": torch.tensor([0.0, 2.0]),
        "text_model.weight": torch.tensor([1.0]),
        "count": torch.tensor(3),
    }
    end = {
        "weight": torch.tensor([1.0, 4.0]),
        "text_model.weight": torch.tensor([2.0]),
        "count": torch.tensor(7),
    }
    for weight in (0.0, 0.25, 1.0):
        found = interpolate(start, end, weight)
        torch.testing.assert_close(found["weight"], torch.tensor([weight, 2 + 2 * weight]))
        torch.testing.assert_close(found["text_model.weight"], torch.tensor([1 + 0.7 * weight]))
        assert found["count"] == 7


@pytest.mark.parametrize(
    ("validation", "texts", "images", "weight"),
    [
        ((0.2, 0.4, 0.6), (0.9, 0.9, 0.9), (0.5, 0.5, 0.5), 1.0),  # nothing is forgotten
        (
            (0.2, 0.4, 0.6),
            (0.9, 0.887, 0.886),
            (0.5, 0.5, 0.5),
            0.5,
        ),  # of 1,000, 13 - sqrt(13) are kept
        (
            (0.2, 0.4, 0.4),
            (0.9, 0.9, 0.9),
            (0.5, 0.5, 0.5),
            0.5,
        ),  # of equally good points, the nearest to the start
        ((0.5, 0.4, 0.6), (0.9, 0.95, 0.88), (0.5, 0.5, 0.5), 0.0),
        (
            (0.2, 0.4, 0.6),
            (0.9, 0.9, 0.95),
            (0.5, 0.49, 0.48),
            0.5,
        ),  # the mean rises, one of both falls
    ],
)
def test_the_best_point_that_keeps_every_accuracy_is_chosen(validation, texts, images, weight):
    points = [
        Point(place, value, {"texts": text, "images": image})
        for place, value, text, image in zip((0, 0.5, 1), validation, texts, images, strict=True)
    ]
    assert choose(points, {"texts": 1000, "images": 1000}, 0.01).weight == weight


def test_one_query_of_a_small_set_may_be_lost():
    points = [
        Point(weight, weight, {"photos": kept / 8}) for weight, kept in ((0, 8), (0.5, 7), (1, 6))
    ]
    assert choose(points, {"photos": 8}, 0.01).weight == 0.5


def row(
    value: float,
    metric: str = "text_to_image_R@1",
    name: str = "general images",
    language: str = "zh",
) -> Row:
    return Row(model="student", metric=metric, value=value, set=name, language=language)


def test_recall_at_1_and_top_1_of_every_set_but_the_own_are_kept():
    rows = [
        row(0.1),
        row(0.2, "text_to_image_R@5"),
        row(0.3, "top1"),
        row(0.4, "top5"),
        row(0.5, name="validation"),
    ]
    assert kept_values(rows) == {
        "general images, zh, text to image R@1": 0.1,
        "general images, zh, top1": 0.3,
    }


def test_the_report_names_the_largest_loss_and_not_a_mean():
    """The mean rises from 0.5 to 0.6, one accuracy falls from 1.0 to 0.944."""
    start, end = (
        {"a": 0.0, "images, zh, image to text R@1": 1.0},
        {"a": 0.256, "images, zh, image to text R@1": 0.944},
    )
    points = [Point(0, 0.1, start), Point(1, 0.9, end)]
    outcome = Outcome(
        [], [], points, points[1], {"a": 900, "images, zh, image to text R@1": 18}, ["A note."]
    )
    assert outcome.worst() == ("images, zh, image to text R@1", pytest.approx(0.056))
    text = outcome.choice()
    assert (
        "Largest loss: 5.6 points, images, zh, image to text R@1 (18 queries)." in text
        and text.endswith("A note.")
    )
