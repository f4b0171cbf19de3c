from dataclasses import replace

import pytest
import torch
from datasets import Dataset

from training.edge.gate_data import GateData
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
    worst_classes={"en": [], "zh": ["狐狸 (2 of 4)"]},
    ms=1.0,
    ms_share=1.0,
)


@pytest.fixture
def data() -> GateData:
    rows = {"a": ["fox", "fox", "dog"], "b": ["cat"]}
    sets = {name: Dataset.from_dict({"image": labels, "label": labels}) for name, labels in rows.items()}
    return GateData(sets, NAMES, sets["a"], "image", "label", "test")


def test_losses_are_counted_by_language_with_their_classes(data):
    swapped = replace(REFERENCE, classes={"en": EYE, "zh": EYE[[1, 0, 2]]})
    losses = count_losses(REFERENCE, swapped, REFERENCE, data)
    assert losses.lost_points == {"en": 0.0, "zh": 75.0}
    assert losses.top1 == {"en": 1.0, "zh": 0.25}
    assert losses.worst_classes == {"en": [], "zh": ["狐狸 (2 of 2)", "狗 (1 of 1)"]}


def test_gain_is_negative_loss(data):
    wrong = replace(REFERENCE, images={"a": EYE[[1, 1, 1]], "b": EYE[[2]]})
    assert count_losses(REFERENCE, REFERENCE, wrong, data).lost_points == {"en": -50.0, "zh": -50.0}


def test_closeness_compares_only_the_exported_tower():
    negated = replace(REFERENCE, classes={"en": -EYE, "zh": EYE})
    assert closeness("vision", negated, negated, REFERENCE) == (0.0, 1.0)
    assert closeness("text", negated, negated, REFERENCE) == (2.0, 0.0)


def test_losses_within_the_limits_pass():
    assert reasons_against(GOOD) == []


@pytest.mark.parametrize(
    ("variant", "points", "passes"),
    [
        ("fp32", 0.0, True),
        ("fp32", 0.01, False),
        ("fp16", 0.1, True),
        ("fp16", 0.11, False),
        ("int8", 1.0, True),
        ("int8", 1.01, False),
    ],
)
def test_limit_of_each_number_format_applies_to_chinese(variant, points, passes):
    reasons = reasons_against(replace(GOOD, variant=variant, lost_points={"en": 0.0, "zh": points}))
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
