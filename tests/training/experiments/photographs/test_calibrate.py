"""The calibration on a model and photographs whose similarities are known."""

import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.experiments.photographs import calibrate as module
from training.experiments.photographs.calibrate import Names, _nouns, calibrate

NAMES = {"en": ["dog", "cat", "cup", "car"], "zh": ["狗", "猫", "杯子", "汽车"]}
WIDTH = 32


def embed(text: str) -> torch.Tensor:
    """A direction of the class that a text names, in either language, and a little of its own."""
    own = torch.randn(WIDTH, generator=torch.Generator().manual_seed(zlib.crc32(text.encode())))
    named = [
        number
        for names in NAMES.values()
        for number, name in enumerate(names)
        if name in text.split()
    ]
    return F.normalize(own / 10 + sum(torch.eye(WIDTH)[number] for number in named), dim=0)


MODEL = SimpleNamespace(
    name="student",
    encode_texts=lambda texts, truncate=False: torch.stack([embed(text) for text in texts]).numpy(),
    encode_images=lambda images: torch.stack([embed(each) for each in images]).numpy(),
    projection_dim=WIDTH,
    processor=SimpleNamespace(tokenizer=lambda text, **_: SimpleNamespace(input_ids=text.split())),
)


BANK = np.zeros((1, WIDTH), np.float32)


def make_set(number: int) -> SimpleNamespace:
    """Twenty photographs of a class, with a sentence and a short caption each."""
    captions = {each: [] for each in NAMES}
    for language, names in NAMES.items():
        for row in range(20):
            captions[language] += [
                f"{names[number]} {row}",
                f"one of many photographs of a {names[number]} number {row}",
                f"{names[number]}",
            ]
    pairs = {each: torch.tensor([(text // 3, text) for text in range(60)]) for each in NAMES}
    return SimpleNamespace(
        rows=[f"{NAMES['en'][number]} {row}" for row in range(20)], captions=captions, pairs=pairs
    )


def classes_of(absent: float) -> dict[str, Names]:
    """The first twenty photographs show the first class, the others the second one."""
    shown = np.zeros((40, 4), bool)
    shown[:20, 0], shown[20:, 1] = True, True
    return {
        each: Names(NAMES[each], np.arange(40), shown, shown, ~shown & (absent == 0))
        for each in NAMES
    }


def calibrated(sets):
    images = [MODEL.encode_images(each.rows) for each in sets]
    return calibrate(MODEL, None, sets, images, Path("unused"), BANK)


@pytest.mark.parametrize("absent", [0.0, 0.5], ids=["clear", "doubtful"])
def test_the_line_is_between_what_is_shown_and_what_is_not(monkeypatch, absent):
    monkeypatch.setattr(module, "_classes", lambda *_: classes_of(absent))
    numbers, rows = calibrated([make_set(0), make_set(1)])
    if absent:
        assert (numbers, rows) == (None, [])
        return
    # values of a sound run; a search judges by all six
    expected = [25.787, -17.603, -17.232, 15.347, -15.85, -8.319]
    assert numbers == pytest.approx(expected, rel=0.02)
    found = {(row.metric, row.set, row.language): row.value for row in rows}
    assert found["fitting_recall", "names", "zh"] == pytest.approx(0.8, abs=0.01)
    for language in NAMES:
        assert found["nothing_fits", "names", language] == 1
        for kind in ("names", "nouns"):  # no noun is surely missing
            assert found["fitting_precision", kind, language] == 1
            assert found["fitting_recall", kind, language] > 0.5


def test_only_captions_as_long_as_sentences_are_sentences():
    captions = [" ".join(["dog"] * length) for length in range(1, 12)]
    pairs = torch.tensor([(length, length - 1) for length in range(1, 12)])
    of = SimpleNamespace(captions={"en": captions}, pairs={"en": pairs})
    assert [*module._sentences(MODEL, of, "en")] == [8, 9, 10, 11]


def test_a_set_may_lack_sentences(monkeypatch):
    monkeypatch.setattr(module, "_classes", lambda *_: classes_of(0))
    sets = [make_set(0), make_set(1)]
    sets[1].captions["zh"] = [NAMES["zh"][1]] * 60
    assert calibrated(sets)[0] is not None


def test_a_photograph_shows_the_nouns_of_most_of_its_captions():
    dogs = ("a dog on grass", "a dog and a ball", "dogs")
    captions = [("a dog",), *[dogs] * 5, ("a cat", "a cat", "a dog")]
    listed = [text for each in captions for text in each]
    pairs = torch.tensor([(image, 0) for image, each in enumerate(captions) for _ in each])
    of = SimpleNamespace(rows=range(7), captions={"en": listed}, pairs={"en": pairs})
    nouns = _nouns([of], "en")
    assert nouns.texts == ["dog"]  # five photographs show no ball and no cat
    assert nouns.photos.tolist() == [1, 2, 3, 4, 5, 6]  # one caption alone tells too little
    assert nouns.shown[:, 0].tolist() == [True] * 5 + [False]
    assert nouns.perhaps.all() and not nouns.absent.any()
