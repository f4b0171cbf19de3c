"""The example image of the demo's card: a held-out image that the student labels correctly in both languages."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.class_names import ClassNames

# English class names in order of preference: the image's own, then the other candidate labels
LABEL_SETS = (
    ("pizza", "sandwich", "red apple"),
    ("fox", "dog", "cat"),
    ("butterfly", "spider", "ant"),
    ("pineapple", "grapes", "peach"),
    ("bicycle", "motorcycle", "airplane"),
    ("giraffe", "zebra", "koala"),
)
NUM_LABELS = 3


@dataclass(frozen=True)
class Example:
    """An image and its candidate labels.

    Args:
        row: Row of the image in the test set.
        labels: Candidate labels by language (ISO 639-1 code). The first is the correct one.
    """

    row: int
    labels: dict[str, list[str]]


def choose_example(model: ZeroShotModel, rows: Dataset, class_names: ClassNames) -> Example:
    """Choose the first image that the model labels correctly in every language; the first of all if there is none.

    Args:
        model: The finished student.
        rows: Held-out images with their English names in the column `label`.
        class_names: Class names of the corpus in every language.
    """
    examples = list(_candidates(rows, class_names))
    images = model.encode_images(rows.select([example.row for example in examples]))
    is_correct = [True] * len(examples)
    for language in class_names.names:
        names = sorted({label for example in examples for label in example.labels[language]})
        texts = dict(zip(names, model.encode_texts(names), strict=True))
        for number, example in enumerate(examples):
            scores = [float(images[number] @ texts[label]) for label in example.labels[language]]
            is_correct[number] &= scores.index(max(scores)) == 0
    return next((example for example, correct in zip(examples, is_correct, strict=True) if correct), examples[0])


def _candidates(rows: Dataset, class_names: ClassNames) -> Iterator[Example]:
    """The label sets whose image is held out, then every held-out image with the names of the next two."""
    held_out, english = list(rows["label"]), class_names.names["en"]
    sets: list[tuple[str, ...]] = [
        names for names in LABEL_SETS if names[0] in held_out and set(names) <= set(english)
    ]
    for number in range(len(held_out)):
        neighbors = [held_out[(number + offset) % len(held_out)] for offset in range(NUM_LABELS)]
        sets.append(tuple(dict.fromkeys(neighbors)))
    for names in sets:
        ids = [english.index(name) for name in names]
        labels = {language: [names_of[number] for number in ids] for language, names_of in class_names.names.items()}
        yield Example(held_out.index(names[0]), labels)


def wrong_languages(answers: dict[str, list[dict[str, Any]]], labels: dict[str, list[str]]) -> list[str]:
    """Languages in which the model's best label is not the correct one.

    Args:
        answers: Labels with scores by language, highest score first, as in `meta["example"]["answers"]` of results.
        labels: Candidate labels by language, the correct one first.
    """
    return [language for language, names in labels.items() if answers[language][0]["label"] != names[0]]
