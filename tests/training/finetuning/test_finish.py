"""Interpolation, the choice of a point, and what the report says about losses."""

import pytest
import torch

from training.finetuning.finish import Point, choose, describe, interpolate, largest_loss
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
    found = interpolate(start, end, 0.25)
    torch.testing.assert_close(found["weight"], torch.tensor([0.25, 2.5]))
    torch.testing.assert_close(found["text_model.weight"], torch.tensor([1 + 0.7 * 0.25]))
    assert found["count"] == 7


def point(weight, **values):
    """A point with one accuracy of each set."""
    fields = {"model": "student", "metric": "top1", "language": "en"}
    return Point(weight, [Row(set=name, value=value, **fields) for name, value in values.items()])


def queries(**numbers):
    return {f"{name}, en, top1": number for name, number in numbers.items()}


SAME = (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("validation", "texts", "images", "weight"),
    [
        ((0.2, 0.4, 0.6), (0.9, 0.9, 0.9), SAME, 1.0),  # nothing is forgotten
        (
            (0.2, 0.4, 0.6),
            (0.9, 0.887, 0.886),
            SAME,
            0.5,
        ),  # 13 of 1,000 queries less sqrt(13) count
        ((0.2, 0.4, 0.4), (0.9, 0.9, 0.9), SAME, 0.5),  # equally good: the nearest to the start
        ((0.2, 0.4, 0.6), (0.9, 0.9, 0.95), (0.5, 0.49, 0.48), 0.5),  # one falls, the mean rises
    ],
)
def test_the_best_point_that_keeps_every_accuracy_is_chosen(validation, texts, images, weight):
    values = zip((0, 0.5, 1), validation, texts, images, strict=True)
    points = []
    for place, own, text, image in values:
        points.append(point(place, validation=own, texts=text, images=image))
    assert choose(points, queries(texts=1000, images=1000), 0.01).weight == weight


def test_recall_at_1_and_top_1_of_every_set_but_the_own_are_kept():
    fields = {"model": "student", "value": 0.1, "language": "zh"}
    metrics = ("text_to_image_R@1", "text_to_image_R@5", "top1", "top5")
    rows = [Row(metric=metric, set="photographs", **fields) for metric in metrics]
    rows.append(Row(metric="top1", set="validation", **fields))
    expected = ["photographs, zh, text to image R@1", "photographs, zh, top1"]
    assert list(kept_values(rows)) == expected


def test_the_report_names_the_largest_loss_and_not_a_mean():
    """The mean rises from 0.5 to 0.6, one accuracy falls from 1.0 to 0.944."""
    start = point(0, texts=0.0, images=1.0)
    end = point(1, texts=0.256, images=0.944)
    assert largest_loss(start, end) == ("images, en, top1", pytest.approx(0.056))
    text = describe(start, end, queries(texts=900, images=18))
    assert "Largest loss: 5.6 points, images, en, top1 (18 queries)." in text
    assert text.endswith("Images cannot show a loss below 5.6 points.")
