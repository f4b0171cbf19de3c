"""The bank of the published models, and the everyday queries that a search is measured by."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.index.hubs import read_bank
from modeling_dcclip.search.index.space import Space
from training.experiments.photographs import everyday as module

MODELS = Path(__file__).parents[4] / "model_cards"


@pytest.mark.parametrize("name", ["dcclip-tiny-photo", "dcclip-nano-photo"])
def test_each_published_model_has_a_bank_of_its_own_weights(name):
    runtime = Runtime(MODELS / name)
    bank = read_bank(runtime, Space.of(runtime).files)
    assert bank is not None
    assert bank.shape == (944, runtime.dimension)
    assert np.median(bank @ bank.T) < 0.5  # captions of many subjects


def make_set(*captions: tuple[str, ...]) -> SimpleNamespace:
    texts = [text for each in captions for text in each]
    owners = [number for number, each in enumerate(captions) for _ in each]
    pairs = torch.tensor([*zip(owners, range(len(texts)), strict=True)])
    return SimpleNamespace(rows=captions, captions={"en": texts}, pairs={"en": pairs})


def test_a_photograph_is_right_if_enough_of_its_captions_name_all_that_is_asked(monkeypatch):
    shown = {"dog": "dogs?|狗", "snow": "snow(?:y|flakes)?|雪"}
    monkeypatch.setattr(module, "EVERYDAY", {"shown": shown})
    one = ("a dog in the snow", "a cat", "a cat", "a cat", "a cat")  # one of five
    two = ("a snowy field with two dogs", "狗在雪里", "a cat", "a cat", "a cat")
    sets = [make_set(one, two, ("a dog",)), make_set(("Dogs on snow",), ("hotdog with snow",))]
    found = module.photos_that_show(module.captions_of(sets), [["dog", "snow"]])
    assert found.tolist() == [[False, True, False, True, False]]
