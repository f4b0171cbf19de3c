"""The example of a card, with what the model truly answers."""

from pathlib import Path
from typing import Any

from transformers import pipeline

TEMPLATE = "{}"


def answer_example(folder: str | Path, image: str, labels: dict[str, list[str]]) -> dict[str, Any]:
    """Ask a model about an image in each language, as the card shows it.

    Args:
        folder: a finished Hub folder with the image in it.
        image: its name.
        labels: candidates by language.

    Returns:
        What `meta["example"]` of its results holds: image, template, and answers by language, the best first.
    """
    classify = pipeline("zero-shot-image-classification", model=str(folder))
    answers = {
        language: [
            {"label": answer["label"], "score": round(answer["score"], 4)}
            for answer in classify(str(Path(folder) / image), candidate_labels=names, hypothesis_template=TEMPLATE)
        ]
        for language, names in labels.items()
    }
    return {"image": image, "template": TEMPLATE, "answers": answers}
