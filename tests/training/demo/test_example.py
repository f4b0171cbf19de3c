"""Choice of the card's example image."""

from collections.abc import Set
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from training.demo.example import LABEL_SETS, choose_example, wrong_languages
from training.evaluation.sets.class_names import ClassNames

EN = ["fox", "dog", "cat", "pizza", "sandwich", "red apple"]
ZH = ["狐狸", "狗", "猫", "披萨", "三明治", "红苹果"]
NAMES = ClassNames({"en": EN, "zh": ZH})
# held-out images are one-hot vectors of their class
ROWS = Dataset.from_list([{"label": name} for name in ("pizza", "fox", "cat")])


def model(wrong: Set[str] = frozenset()) -> SimpleNamespace:
    """A model whose text embeddings are those of the class, except for names in `wrong`."""

    def encode_texts(names: list[str]) -> torch.Tensor:
        ids = [(EN if name in EN else ZH).index(name) for name in names]
        signs = torch.tensor([[-1.0] if name in wrong else [1.0] for name in names])
        return signs * torch.eye(6)[ids]

    return SimpleNamespace(
        encode_images=lambda rows: torch.stack([torch.eye(6)[EN.index(name)] for name in rows["label"]]),
        encode_texts=encode_texts,
    )


def test_the_first_label_set_is_preferred():
    example = choose_example(model(), ROWS, NAMES)
    assert example.labels == {"en": ["pizza", "sandwich", "red apple"], "zh": ["披萨", "三明治", "红苹果"]}
    assert ROWS[example.row]["label"] == "pizza"


@pytest.mark.parametrize("wrong", ["pizza", "披萨"])
def test_an_image_that_is_wrong_in_one_language_is_not_chosen(wrong):
    example = choose_example(model({wrong}), ROWS, NAMES)
    assert (example.labels["en"][0], example.labels["zh"][0]) == ("fox", "狐狸")
    assert ROWS[example.row]["label"] == "fox"


def test_other_images_are_tried_after_the_label_sets():
    example = choose_example(model({"fox", "pizza"}), ROWS, NAMES)
    assert (example.labels["en"][0], example.labels["zh"][0]) == ("cat", "猫")


def test_without_a_correct_image_the_first_is_chosen():
    assert choose_example(model(set(ZH)), ROWS, NAMES).labels["en"][0] == "pizza"


def test_wrong_languages_are_those_whose_best_label_is_not_the_correct_one():
    answers = {"en": [{"label": "cat"}, {"label": "fox"}], "zh": [{"label": "狐狸"}, {"label": "猫"}]}
    assert wrong_languages(answers, {"en": ["fox", "cat"], "zh": ["狐狸", "猫"]}) == ["en"]


def test_label_sets_have_unique_names_of_the_corpus():
    from training.corpus.emoji import read_concepts

    concepts = {concept.en: concept for concept in read_concepts()}
    for names in LABEL_SETS:
        assert len(set(names)) == len(names) and set(names) <= set(concepts)
        assert concepts[names[0]].split("twemoji") == "unseen_style"
