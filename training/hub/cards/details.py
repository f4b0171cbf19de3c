"""What a person says about a published model; everything else on its card is measured or read."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from training.utils.files import REPO_ROOT

CARDS = REPO_ROOT / "model_cards" / "cards"
CARD_FILE = "card.yaml"


@dataclass(frozen=True, kw_only=True)
class CardDetails:
    """The YAML of a card.

    Args:
        name: the title; default: the folder's name.
        summary: a sentence or two: what it is for.
        revision: tag that the examples pin, and that `training/publish.py` puts on the commit.
        trained: False marks the card "recipe, not yet trained".
        size: one of the sizes under training/configs/students, where there is no folder yet to read.
        recipes: recipes under training/configs that make it.
        results: folder of its results, from the root of the checkout; default: results.json in the model's folder.
        teacher: Hub id of the teacher, where the config names a copy of it.
        teacher_license: licence of the teacher's weights, where there is no folder yet to read.
        base_model: Hub ids of what its weights started from, beside the teacher.
        datasets: Hub ids of what it was trained on, beside those in the recipe.
        data: what it was trained on, and whose that is, in Markdown.
        image: of the examples: a file of the repo, or an address.
        labels: candidates of the examples by language (ISO 639-1 code).
        plots: images of its folder that the card shows under its results.
        limits: what it cannot do, a sentence or two each.
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
        """Read a card's YAML.

        Raises:
            ValueError: the file cannot be read, a key is unknown, or a label has a comma, which the widget would take
            for the end of it.
        """
        try:
            content: dict[str, Any] = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ValueError(f"card: cannot read {path} ({error}). See model_cards/cards for examples.") from error
        known = [each.name for each in fields(cls)]
        if unknown := sorted(set(content) - set(known)):
            raise ValueError(f"card: {path} has unknown keys {', '.join(unknown)}; known are {', '.join(known)}.")
        details = cls(**content)
        for label in (label for labels in details.labels.values() for label in labels):
            if "," in label:
                raise ValueError(f"card: label {label!r} in {path} has a comma, where the widget would split it.")
        return details
