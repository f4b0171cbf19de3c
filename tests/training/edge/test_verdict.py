from dataclasses import replace

import pytest
import torch
from datasets import Dataset

from training.edge.gate_data import GateData
from training.edge.ranking import same_top
from training.edge.verdict import Verdict, closeness, count_losses, reasons_against
from training.evaluation.classify import Encoded
from training.evaluation.sets.class_names import ClassNames

NAMES = ClassNames({"en": ["fox", "dog", "cat"], "zh": ["狐狸", "狗", "猫"]})
EYE = torch.eye(3)
# PyTorch classifies these four images correctly in both languages
REFERENCE = Encoded("PyTorch", {"a": EYE[[0, 0, 1]], "b": EYE[[2]]}, {"en": EYE, "zh": EYE})
GOOD = Verdict(
    "onnx/text_model_quantized.onnx",
    "text",
    "int8",
    True,
    [],
    bytes=1,
    bytes_share=0.26,
    mean_cosine=0.999,
    top1={"en": 0.5, "zh": 0.5},
    lost_points={"en": 1.0, "zh": -3.0},
    images=1000,
    worst_classes={"en": [], "zh": ["狐狸 (2 of 4)"]},
    recall10={"en": 0.9, "zh": 0.9},
    lost_recall_points={"en": 1.0, "zh": -2.0},
    queries=1000,
    ms=1.0,
    ms_share=1.0,
)
# a class is found if one of its images is among the ten best, so these sets have more images than that
MANY = Encoded("PyTorch", {"a": EYE[[0] * 10], "b": EYE[[1] * 10]}, {"en": EYE, "zh": EYE})


@pytest.fixture
def names_by_set():
    """Make labelled sets from the labels of their images."""

    def make(rows: dict[str, list[str]]) -> GateData:
        sets = {name: Dataset.from_dict({"image": labels, "label": labels}) for name, labels in rows.items()}
        return GateData(sets, NAMES, sets["a"], "image", "label", "test")

    return make


@pytest.fixture
def data(names_by_set) -> GateData:
    return names_by_set({"a": ["fox", "fox", "dog"], "b": ["cat"]})


def test_losses_are_counted_by_language_with_their_classes(data):
    swapped = replace(REFERENCE, classes={"en": EYE, "zh": EYE[[1, 0, 2]]})
    losses = count_losses(REFERENCE, swapped, REFERENCE, data)
    assert losses.lost_points == {"en": 0.0, "zh": 75.0}
    assert losses.top1 == {"en": 1.0, "zh": 0.25}
    assert losses.worst_classes == {"en": [], "zh": ["狐狸 (2 of 2)", "狗 (1 of 1)"]}


def test_gain_is_negative_loss(data):
    wrong = replace(REFERENCE, images={"a": EYE[[1, 1, 1]], "b": EYE[[2]]})
    assert count_losses(REFERENCE, REFERENCE, wrong, data).lost_points == {"en": -50.0, "zh": -50.0}


def test_lost_recall_is_counted_by_language(names_by_set):
    many = names_by_set({"a": ["fox"] * 10, "b": ["dog"] * 10})
    swapped = replace(MANY, classes={"en": EYE, "zh": EYE[[1, 0, 2]]})
    losses = count_losses(MANY, swapped, MANY, many)
    assert losses.queries == 2  # no image is of the third class
    assert losses.recall10 == {"en": 1.0, "zh": 0.0}
    assert losses.lost_recall_points == {"en": 0.0, "zh": 100.0}
    assert count_losses(MANY, MANY, swapped, many).lost_recall_points == {"en": 0.0, "zh": -100.0}


def test_ten_best_images_are_compared_in_any_order():
    scores = torch.arange(24.0).view(2, 12)
    other = scores.clone()
    other[0, [2, 11]] = other[0, [11, 2]]  # the worst and the best of the ten best
    assert same_top(other, scores) == 1.0
    other[1, [1, 11]] = other[1, [11, 1]]
    assert same_top(other, scores) == 0.5


@pytest.mark.parametrize(
    ("variant", "queries", "points", "passes"),
    [
        ("fp32", 20, 0.1, False),
        ("fp16", 1000, 0.1, True),
        ("fp16", 1000, 0.2, False),
        ("int8", 20, 5.0, True),  # one query
        ("int8", 20, 10.0, False),
        ("int8", 1000, 1.0, True),
        ("int8", 1000, 1.1, False),
    ],
)
def test_limit_of_recall_applies_to_chinese(variant, queries, points, passes):
    changes = {"variant": variant, "queries": queries, "lost_points": {"en": 0.0, "zh": 0.0}}
    reasons = reasons_against(replace(GOOD, **changes, lost_recall_points={"en": 0.0, "zh": points}))
    assert (reasons == []) == passes
    if not passes:
        assert "recall at 10 in zh" in reasons[0] and f"loses {points:.2f} points" in reasons[0]


def test_closeness_compares_only_the_exported_tower():
    negated = replace(REFERENCE, classes={"en": -EYE, "zh": EYE})
    assert closeness("vision", negated, negated, REFERENCE) == (0.0, 1.0)
    assert closeness("text", negated, negated, REFERENCE) == (2.0, 0.0)


def test_losses_within_the_limits_pass():
    assert reasons_against(GOOD) == []


@pytest.mark.parametrize(
    ("variant", "images", "points", "passes"),
    [
        ("fp32", 1000, 0.0, True),
        ("fp32", 1000, 0.01, False),
        ("fp32", 45, 100 / 45, False),
        ("fp16", 1000, 0.1, True),
        ("fp16", 1000, 0.11, False),
        ("int8", 1000, 1.0, True),
        ("int8", 1000, 1.01, False),
        ("int8", 45, 100 / 45, True),  # one image
        ("int8", 45, 200 / 45, False),
    ],
)
def test_limit_of_each_number_format_applies_to_chinese(variant, images, points, passes):
    changes = {"variant": variant, "images": images, "lost_recall_points": {}}
    reasons = reasons_against(replace(GOOD, **changes, lost_points={"en": 0.0, "zh": points}))
    assert (reasons == []) == passes
    if not passes:
        assert "in zh" in reasons[0] and f"{points:.2f} points" in reasons[0] and "狐狸" in reasons[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ms_share": 1.01}, "times as long as fp32"),
        ({"bytes_share": 0.95}, "of the bytes of fp32"),
    ],
)
def test_slow_and_large_files_are_refused(changes, reason):
    (refusal,) = reasons_against(replace(GOOD, **changes))
    assert reason in refusal
