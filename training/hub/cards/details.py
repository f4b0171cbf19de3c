"""The part of a model card that is written by hand. Everything else is measured, or comes from config and recipe."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from training.utils.files import REPO_ROOT

CARDS = REPO_ROOT / "model_cards" / "cards"
CARD_FILE = "card.yaml"


@dataclass(frozen=True, kw_only=True)
class CardDetails:
    """The contents of a card's YAML file.

    Args:
        name: Title of the card. Default: the name of the folder.
        summary: Purpose of the model, in a sentence or two.
        revision: Tag that the examples pin and that `training/publish.py` sets on the commit.
        trained: Whether trained weights exist. False marks the card as a recipe without published weights.
        size: Name of a file under training/configs/students, for a model that has no folder yet.
        recipes: Files under training/configs that train the model.
        results: Folder of the model's results, relative to the repository root. Default: `results.json` in the
            model's folder.
        teacher: Hub id of the teacher, if the config names a local copy of it.
        teacher_license: Licence identifier of the teacher's weights, for a model that has no folder yet.
        base_model: Hub ids of further models that the weights started from. Teacher and initial weights of the
            recipes are added.
        datasets: Hub ids of further training data. The sources of the recipes are added.
        data: Description of the training data and its owners, in Markdown.
        image: Image of the examples: a file of the repo, or a URL.
        labels: Candidate labels of the examples for each language (ISO 639-1 code). The first label of each language
            is the correct one.
        plots: Image files of the folder that the card shows below its results.
        limits: Known limits of the model, in a sentence or two each.
    """

    name: str | None = None
    summary: str | None = None
    revision: str | None = None
    trained: bool = True
    size: str | None = None
    recipes: list[str] = field(default_factory=list)
    results: str | None = None
    teacher: str | None = None
    teacher_license: str | None = None
    base_model: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    data: str | None = None
    image: str | None = None
    labels: dict[str, list[str]] = field(
        default_factory=lambda: {"en": ["red apple", "green apple"], "zh": ["红苹果", "绿苹果"]}
    )
    plots: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: str | Path) -> "CardDetails":
        """Read a card's YAML file.

        Raises:
            ValueError: The file cannot be read, a key is unknown, or a label has a comma, at which the Hub's widget
                would split it.
        """
        try:
            content: dict[str, Any] = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ValueError(f"card: cannot read {path} ({error}). See model_cards/cards for examples.") from error
        known = [entry.name for entry in fields(cls)]
        if unknown := sorted(set(content) - set(known)):
            raise ValueError(f"card: {path} has unknown keys {', '.join(unknown)}. Expected: {', '.join(known)}.")
        details = cls(**content)
        for label in (label for labels in details.labels.values() for label in labels):
            if "," in label:
                raise ValueError(
                    f"card: label {label!r} in {path} has a comma, at which the widget of the Hub splits it. "
                    "Remove the comma."
                )
        return details
