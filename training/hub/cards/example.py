"""The example of a card: a model's predictions for one image, and whether they are correct."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.hub.cards.details import CardDetails
from training.text.writing_systems import LANGUAGE_NAMES
from training.utils.results import Results

TEMPLATE = "{}"


def classify_example(folder: str | Path, image: str, labels: dict[str, list[str]]) -> dict[str, Any]:
    """Classify the example image of a card in each language.

    Args:
        folder: A finished Hub folder that has the image in it.
        image: File name of the image.
        labels: Candidate labels for each language.

    Returns:
        The value of `meta["example"]` in results: image, template, and for each language labels and scores, the
        highest score first.
    """
    from transformers import pipeline  # not at the top: cards are rendered without PyTorch

    classify = pipeline("zero-shot-image-classification", model=str(folder))
    answers = {
        language: [
            {"label": answer["label"], "score": round(answer["score"], 4)}
            for answer in classify(str(Path(folder) / image), candidate_labels=names, hypothesis_template=TEMPLATE)
        ]
        for language, names in labels.items()
    }
    return {"image": image, "template": TEMPLATE, "answers": answers}


@dataclass(frozen=True)
class Prediction:
    """The predictions of an example in one language, compared with the correct label.

    Args:
        language: Name of the language in English.
        answers: Labels with scores, the highest score first.
        correct: The correct label.
    """

    language: str
    answers: list[dict[str, Any]]
    correct: str

    @property
    def is_correct(self) -> bool:
        """Whether the correct label has the highest score."""
        return self.answers[0]["label"] == self.correct

    @property
    def scores(self) -> str:
        """Labels with scores, such as `fox 0.988, dog 0.012`."""
        return ", ".join(f"{answer['label']} {answer['score']:.3f}" for answer in self.answers)


def check_example(details: CardDetails, results: Results | None) -> dict[str, Prediction]:
    """Compare the stored predictions of the example with the correct labels.

    Args:
        details: Image and labels of the card; the first label of each language is the correct one.
        results: Results of the model. Predictions for another image or other labels are ignored.

    Returns:
        The prediction for each language that has one.
    """
    example = results.meta.get("example") if results else None
    if example is None or example.get("image", details.image) != details.image:
        return {}
    return {
        language: Prediction(LANGUAGE_NAMES.get(language, language), answers, details.labels[language][0])
        for language, answers in example["answers"].items()
        if sorted(answer["label"] for answer in answers) == sorted(details.labels.get(language, []))
    }
