"""The calibration on a model and photographs whose similarities are known."""

import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_dcclip.search.fit import fit_probability
from training.photographs import calibrate as module
from training.photographs.calibrate import calibrate

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
    encode_texts=lambda texts: torch.stack([embed(text) for text in texts]),
    encode_images=lambda rows: torch.stack([embed(row) for row in rows]),
    processor=SimpleNamespace(tokenizer=lambda text, **_: SimpleNamespace(input_ids=text.split())),
)


def make_set(number: int) -> SimpleNamespace:
    """Twenty photographs of a class, with a sentence and a short caption each."""
    captions = {each: [] for each in NAMES}
    for language, names in NAMES.items():
        for row in range(20):
            captions[language] += [
                f"{names[number]} {row}",
                f"one of many photographs of a {names[number]} number {row}",
            ]
    pairs = {each: torch.tensor([(text // 2, text) for text in range(40)]) for each in NAMES}
    return SimpleNamespace(
        rows=[f"{NAMES['en'][number]} {row}" for row in range(20)], captions=captions, pairs=pairs
    )


@pytest.mark.parametrize("absent", [0.0, 0.5], ids=["clear", "doubtful"])
def test_the_line_is_between_what_is_shown_and_what_is_not(monkeypatch, absent):
    shown = np.full((40, 4), absent)
    shown[:20, 0], shown[20:, 1] = 0.9, 0.9
    monkeypatch.setattr(module, "_classify", lambda *_: (shown, NAMES))
    numbers, rows = calibrate(MODEL, None, [make_set(0), make_set(1)], Path("unused"))
    if absent:
        assert (numbers, rows) == (None, [])
        return
    assert {(row.metric, row.set, row.language) for row in rows} == {
        *(
            ("has_photograph_auc", kind, language)
            for kind in ("names", "sentences")
            for language in NAMES
        ),
        *(
            (metric, "names", language)
            for metric in ("fitting_precision", "fitting_names")
            for language in NAMES
        ),
    }
    assert all(row.value == 1 for row in rows)
    photos = MODEL.encode_images(make_set(0).rows)
    similarities = photos @ MODEL.encode_texts(module.NOUNS).T
    assert numbers[1] < 0 > numbers[4]  # the best of many has a higher score
    for text, length, fits in (
        ("dog", 1, True),
        ("猫", 1, False),
        ("a dog", 9, True),
        ("a car", 9, False),
    ):
        scores = (photos @ embed(text)).numpy()
        assert (
            (fit_probability(scores, similarities.numpy(), length, len(photos), numbers) > 0.5)
            == fits
        ).all(), text


def test_a_set_may_lack_sentences(monkeypatch):
    shown = np.zeros((40, 4))
    shown[:20, 0], shown[20:, 1] = 0.9, 0.9
    monkeypatch.setattr(module, "_classify", lambda *_: (shown, NAMES))
    sets = [make_set(0), make_set(1)]
    sets[1].captions["zh"] = [NAMES["zh"][1]] * 40
    assert calibrate(MODEL, None, sets, Path("unused"))[0] is not None
