"""The accuracy gate: exact verdicts, per language, on scripted embeddings."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from datasets import Dataset

from training.edge.formats import FORMATS
from training.edge.gate import Gate
from training.edge.gate_data import GateData
from training.edge.verdict import Encoded, Verdict, compare, reasons_against
from training.evaluation.sets.class_names import ClassNames

NAMES = ClassNames({"en": ["fox", "dog", "cat"], "zh": ["狐狸", "狗", "猫"]})
EYE = torch.eye(3)
LABELS = torch.tensor([0] * 4 + [1] * 3 + [2] * 3)
# every image is classified correctly
REFERENCE = Encoded(EYE[LABELS], {"en": EYE, "zh": EYE})


class Student:
    """A model with the embeddings of `REFERENCE`."""

    def encode_images(self, rows):
        return REFERENCE.images

    def encode_texts(self, texts, truncate=False):
        return EYE


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Check a file with scripted embeddings."""
    for name, size in (("fp32.onnx", 100), ("small.onnx", 26)):
        (tmp_path / name).write_bytes(b"x" * size)
    rows = Dataset.from_dict({"image": [None] * len(LABELS)})
    data = GateData(rows, LABELS, NAMES, rows, "test")
    monkeypatch.setattr(Gate, "_time", lambda self, tower, path, fp32: (2.0, 1.0))

    def check(tower: str, encode: Callable[..., Encoded]) -> Verdict:
        monkeypatch.setattr(Gate, "_encode_file", encode)
        gate = Gate(Student(), data, FORMATS["onnx"])
        return gate.check(tower, "int8", tmp_path / "small.onnx", tmp_path / "fp32.onnx")

    return check


def with_texts(**classes: torch.Tensor) -> Encoded:
    return replace(REFERENCE, classes=REFERENCE.classes | classes)


def no_kernel(*_):
    raise ValueError("no kernel")


def test_a_file_passes_with_its_measures_or_is_refused_with_the_cause(check, monkeypatch):
    verdict = check("text", lambda *_: REFERENCE)
    assert verdict.kept and verdict.checked and verdict.reasons == []
    assert verdict.top1 == verdict.recall10 == {"en": 1.0, "zh": 1.0}
    assert (verdict.bytes, verdict.bytes_share, verdict.ms) == (26, 0.26, 2.0)
    assert (verdict.images, verdict.queries, verdict.mean_cosine) == (10, 3, 1.0)
    monkeypatch.setattr(Gate, "_time", lambda *_: pytest.fail("a file of NaN is timed"))
    broken = torch.full_like(EYE, float("nan"))
    verdict = check("text", lambda *_: with_texts(zh=broken))
    assert not verdict.kept and "not finite" in verdict.reasons[0]
    verdict = check("vision", no_kernel)
    assert (verdict.kept, verdict.reasons) == (False, ["no kernel"])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_loss_in_one_language_is_refused_in_its_name(check, language):
    verdict = check("text", lambda *_: with_texts(**{language: EYE[[0, 2, 1]]}))
    other = {"en": "zh", "zh": "en"}[language]
    assert not verdict.kept
    assert verdict.lost_points == pytest.approx({language: 60.0, other: 0.0})
    assert verdict.top1 == pytest.approx({language: 0.4, other: 1.0})
    (reason,) = verdict.reasons
    assert f"loses 60.00 points of top-1 in {language}, from 100.00 % to 40.00 %" in reason


def test_lost_recall_is_counted_by_language():
    # a class is found if one of its images is among the ten best, so there are more images than that
    labels = torch.tensor([0] * 10 + [1] * 10)
    many = Encoded(EYE[labels], {"en": EYE, "zh": EYE})
    swapped = replace(many, classes={"en": EYE, "zh": EYE[[1, 0, 2]]})
    losses = compare("text", swapped, many, labels)
    assert losses["queries"] == 2  # no image is of the third class
    assert losses["recall10"] == {"en": 1.0, "zh": 0.0}
    assert losses["lost_recall_points"] == {"en": 0.0, "zh": 100.0}


def test_closeness_compares_only_the_exported_tower():
    negated = with_texts(en=-EYE)
    for tower, cosines in (("vision", (1.0, 1.0)), ("text", (0.0, -1.0)), ("both", (0.625, -1.0))):
        found = compare(tower, negated, REFERENCE, None)
        assert (found["mean_cosine"], found["lowest_cosine"]) == pytest.approx(cosines)


GOOD = Verdict(
    "onnx/text_model_quantized.onnx",
    "text",
    "int8",
    True,
    [],
    bytes_share=0.26,
    lowest_cosine=0.999,
    top1={"en": 0.5, "zh": 0.5},
    images=1000,
    recall10={"en": 0.9, "zh": 0.9},
    queries=1000,
    ms_share=1.0,
)


@pytest.mark.parametrize(
    ("variant", "number", "points", "passes"),
    [
        ("fp32", 1000, 0.0, True),
        ("fp32", 45, 100 / 45, False),
        ("int8", 1000, 1.0, True),
        ("int8", 1000, 1.01, False),
        ("int8", 45, 100 / 45, True),  # one image or query
    ],
)
def test_limits_apply_to_chinese_in_top_1_and_in_recall(variant, number, points, passes):
    limits = replace(GOOD, variant=variant, images=number, queries=number)
    lost = {"en": 0.0, "zh": points}
    for changes, text in (
        ({"lost_points": lost}, "top-1 in zh"),
        ({"lost_recall_points": lost}, "recall at 10 in zh"),
    ):
        reasons = reasons_against(replace(limits, **changes))
        assert [text in reason for reason in reasons] == ([] if passes else [True])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ms_share": 1.01}, "The int8 text tower takes 1.01 times as long as fp32"),
        ({"bytes_share": 0.95}, "of the bytes of fp32"),
        ({"variant": "fp32", "lowest_cosine": 0.9989}, "cosine"),
    ],
)
def test_slow_large_and_inexact_files_are_refused(changes, reason):
    (refusal,) = reasons_against(replace(GOOD, **changes))
    assert reason in refusal
