"""The accuracy gate: exact verdicts, per language, on scripted embeddings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from training.edge import gate as module
from training.edge import graphs
from training.edge.formats import FORMATS
from training.edge.gate import Gate
from training.edge.gate_data import GateData
from training.edge.verdict import Verdict, compare, reasons_against
from training.evaluation.classify import Encoded
from training.evaluation.sets.class_names import ClassNames
from training.teachers import DualEncoder

NAMES = ClassNames({"en": ["fox", "dog", "cat"], "zh": ["狐狸", "狗", "猫"]})
EYE = torch.eye(3)
LABELS = ["fox"] * 4 + ["dog"] * 3 + ["cat"] * 3
IDS = [NAMES.names["en"].index(label) for label in LABELS]
REFERENCE = Encoded(
    "PyTorch", {"a": EYE[IDS]}, {"en": EYE, "zh": EYE}
)  # every image is classified correctly


@pytest.fixture
def gate(images, teacher_folder, tmp_path, monkeypatch):
    """Make a gate that finds scripted embeddings by file name."""
    rows = Dataset.from_dict(
        {"image": [images[number % 8] for number in range(10)], "label": LABELS}
    )
    data = GateData({"a": rows}, NAMES, rows, "image", "label", "test")
    student = DualEncoder.from_pretrained(teacher_folder)
    for name in ("small.onnx", "fp32.onnx"):
        (tmp_path / name).write_bytes(b"x" * (100 if name == "fp32.onnx" else 26))

    def make(**files: Encoded) -> Gate:
        def encode(model, sets, class_names, languages, image_column):
            found = files.get(Path(model.name).stem, REFERENCE)
            return Encoded(
                model.name,
                {name: found.images[name] for name in sets},
                {key: found.classes[key] for key in languages},
            )

        monkeypatch.setattr(module, "encode", encode)
        monkeypatch.setattr(graphs, "open_tower", lambda path, threads: None)
        monkeypatch.setattr(Gate, "_time", lambda self, tower, path, fp32: (2.0, 1.0))
        return Gate(student, data, FORMATS["onnx"])

    return make


def text(zh: torch.Tensor, en: torch.Tensor = EYE) -> Encoded:
    return Encoded("text", {}, {"en": en, "zh": zh})


def test_an_equal_file_passes_with_its_measures_by_language(gate, tmp_path):
    verdict, rows = gate(small=text(EYE)).check(
        "text", "int8", tmp_path / "small.onnx", tmp_path / "fp32.onnx"
    )
    assert verdict.kept and verdict.checked and verdict.reasons == []
    assert verdict.top1 == verdict.recall10 == {"en": 1.0, "zh": 1.0}
    assert (verdict.bytes, verdict.bytes_share, verdict.ms, verdict.images, verdict.queries) == (
        26,
        0.26,
        2.0,
        10,
        3,
    )
    assert (verdict.largest_difference, verdict.mean_cosine) == (0.0, 1.0)
    assert {(row.model, row.language, row.value) for row in rows if row.metric == "top1"} == {
        ("onnx/small.onnx", "en", 1.0),
        ("onnx/small.onnx", "zh", 1.0),
    }


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_loss_in_one_language_is_refused_in_its_name(gate, tmp_path, language):
    swapped = replace(text(EYE), classes={"en": EYE, "zh": EYE} | {language: EYE[[0, 2, 1]]})
    verdict, _ = gate(small=swapped).check(
        "text", "int8", tmp_path / "small.onnx", tmp_path / "fp32.onnx"
    )
    other = {"en": "zh", "zh": "en"}[language]
    assert not verdict.kept
    assert verdict.lost_points == {language: 60.0, other: 0.0} and verdict.top1 == {
        language: 0.4,
        other: 1.0,
    }
    (reason,) = verdict.reasons
    assert f"top-1 in {language}" in reason and NAMES.names[language][1] in reason


@pytest.mark.parametrize(
    ("variant", "num_lost", "kept"), [("int8", 1, True), ("int8", 2, False), ("fp32", 1, False)]
)
def test_a_variant_may_lose_one_image_of_a_small_set_and_fp32_none(
    gate, tmp_path, variant, num_lost, kept
):
    wrong = EYE[IDS].clone()
    wrong[:num_lost] = EYE[1]
    found = Encoded("vision", {"a": wrong}, {})
    verdict, _ = gate(small=found).check(
        "vision", variant, tmp_path / "small.onnx", tmp_path / "fp32.onnx"
    )
    assert verdict.kept == kept and verdict.lost_points == {
        "en": 10.0 * num_lost,
        "zh": 10.0 * num_lost,
    }


@pytest.mark.parametrize("language", ["en", "zh"])
def test_nan_in_one_language_is_refused_and_not_timed(gate, tmp_path, language, monkeypatch):
    broken = EYE.clone()
    broken[2, 0] = float("nan")
    made = gate(small=replace(text(EYE), classes={"en": EYE, "zh": EYE} | {language: broken}))
    monkeypatch.setattr(Gate, "_time", lambda *_: pytest.fail("a file of NaN is timed"))
    verdict, rows = made.check("text", "int8", tmp_path / "small.onnx", tmp_path / "fp32.onnx")
    assert not verdict.kept and "not finite" in verdict.reasons[0] and rows == []


def test_a_file_that_cannot_be_opened_is_refused_with_the_cause(gate, tmp_path, monkeypatch):
    def fail(path, threads):
        raise ValueError("no kernel")

    made = gate()
    monkeypatch.setattr(graphs, "open_tower", fail)
    verdict, rows = made.check("vision", "int8", tmp_path / "small.onnx", tmp_path / "fp32.onnx")
    assert (verdict.kept, verdict.reasons, rows) == (False, ["no kernel"], [])


# PyTorch classifies these four images correctly in both languages
FOUR = Encoded("PyTorch", {"a": EYE[[0, 0, 1]], "b": EYE[[2]]}, {"en": EYE, "zh": EYE})
GOOD = Verdict(
    "onnx/text_model_quantized.onnx",
    "text",
    "int8",
    True,
    [],
    bytes=1,
    bytes_share=0.26,
    mean_cosine=0.9995,
    lowest_cosine=0.999,
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


def labelled_sets(rows: dict[str, list[str]]) -> GateData:
    """Labelled sets from the labels of their images."""
    sets = {
        name: Dataset.from_dict({"image": labels, "label": labels}) for name, labels in rows.items()
    }
    return GateData(sets, NAMES, sets["a"], "image", "label", "test")


DATA = labelled_sets({"a": ["fox", "fox", "dog"], "b": ["cat"]})


def test_losses_are_counted_by_language_with_their_classes():
    swapped = replace(FOUR, classes={"en": EYE, "zh": EYE[[1, 0, 2]]})
    losses = compare("text", FOUR, swapped, FOUR, DATA)
    assert losses["lost_points"] == {"en": 0.0, "zh": 75.0}
    assert losses["top1"] == {"en": 1.0, "zh": 0.25}
    assert losses["worst_classes"] == {"en": [], "zh": ["狐狸 (2 of 2)", "狗 (1 of 1)"]}


def test_lost_recall_is_counted_by_language():
    many = labelled_sets({"a": ["fox"] * 10, "b": ["dog"] * 10})
    swapped = replace(MANY, classes={"en": EYE, "zh": EYE[[1, 0, 2]]})
    losses = compare("text", MANY, swapped, MANY, many)
    assert losses["queries"] == 2  # no image is of the third class
    assert losses["recall10"] == {"en": 1.0, "zh": 0.0}
    assert losses["lost_recall_points"] == {"en": 0.0, "zh": 100.0}
    assert compare("text", MANY, MANY, swapped, many)["lost_recall_points"] == {
        "en": 0.0,
        "zh": -100.0,
    }


def test_closeness_compares_only_the_exported_tower():
    negated = replace(FOUR, classes={"en": -EYE, "zh": EYE})
    names = ("largest_difference", "mean_cosine", "lowest_cosine")
    for tower, expected in (
        ("vision", (0.0, 1.0, 1.0)),
        ("text", (2.0, 0.0, -1.0)),
        ("both", (2.0, 0.4, -1.0)),
    ):
        found = compare(tower, negated, negated, FOUR, DATA)
        assert [found[name] for name in names] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("variant", "number", "points", "passes"),
    [
        ("fp32", 1000, 0.0, True),
        ("fp32", 45, 100 / 45, False),
        ("int8", 1000, 1.0, True),
        ("int8", 1000, 1.01, False),
        ("int8", 45, 100 / 45, True),  # one image or query
        ("int8", 45, 200 / 45, False),
    ],
)
def test_limits_apply_to_chinese_in_top_1_and_in_recall(variant, number, points, passes):
    limits = replace(
        GOOD, variant=variant, images=number, queries=number, lost_points={}, lost_recall_points={}
    )
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
        ({"ms_share": 1.01}, "times as long as fp32"),
        ({"bytes_share": 0.95}, "of the bytes of fp32"),
        (
            {
                "variant": "fp32",
                "lost_points": {},
                "lost_recall_points": {},
                "lowest_cosine": 0.9989,
            },
            "cosine",
        ),
    ],
)
def test_slow_large_and_inexact_files_are_refused(changes, reason):
    (refusal,) = reasons_against(replace(GOOD, **changes))
    assert reason in refusal
